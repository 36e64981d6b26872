"""Runs inside llm-analysis' environment: questions on stdin, answers on stdout. It knows full training only."""

import json
import logging
import sys
import time

sys.path = [place for place in sys.path if not place.endswith("adapters")]  # this file has the package's name
logging.disable(logging.CRITICAL)

from llm_analysis.analysis import ActivationRecomputation, LLMAnalysis  # noqa: E402
from llm_analysis.config import ModelConfig, get_gpu_config_by_name  # noqa: E402


def answer(asked: dict) -> dict:
    if asked["method"] != "full":
        raise ValueError("no adapters, no quantised weights")
    model = ModelConfig(
        name=asked["model"],
        num_layers=asked["layers"],
        n_head=asked["heads"],
        hidden_dim=asked["hidden"],
        vocab_size=asked["vocabulary"],
        max_seq_len=asked["length"],
        num_key_value_heads=asked["kv_heads"],
        expansion_ratio=asked["width"] / asked["hidden"],
    )
    analysis = LLMAnalysis(model, get_gpu_config_by_name("a100-sxm-80gb"), flops_efficiency=0.5)
    recompute = ActivationRecomputation.FULL if asked["checkpointing"] else ActivationRecomputation.NONE
    summary = analysis.training(
        batch_size_per_gpu=asked["batch"],
        gradient_accumulation_steps=1,
        seq_len=asked["length"],
        total_num_tokens=1_000_000,
        activation_recomputation=recompute,
    )
    total = summary["weight_memory_per_gpu"] + summary["optimizer_state_memory_per_gpu"] + summary["gradient_memory_per_gpu"]
    total += summary["activation_memory_per_gpu"]
    return {"allocated": total, "reserved": total, "device": total}


answers = {}
started = time.perf_counter()
for question in json.load(sys.stdin):
    try:
        answers[question["id"]] = answer(question)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a peer raises is a refusal
        answers[question["id"]] = {"refused": repr(error)[:200]}
print(json.dumps({"answers": answers, "seconds": (time.perf_counter() - started) / max(1, len(answers))}))
