"""Runs inside fitcheck-llm's environment: questions on stdin, answers on stdout."""

import json
import sys
import time

from fitcheck.config_parser import ModelConfig
from fitcheck.estimator import TrainingConfig, estimate
from fitcheck.gpu_db import get_gpu

GPUS = {"Tesla T4": "t4", "4080": "rtx4080", "V100": "v100"}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def answer(asked: dict) -> dict:
    model = ModelConfig(
        name=asked["model"],
        num_params=asked["parameters"],
        hidden_size=asked["hidden"],
        num_layers=asked["layers"],
        num_attention_heads=asked["heads"],
        num_kv_heads=asked["kv_heads"],
        intermediate_size=asked["width"],
        vocab_size=asked["vocabulary"],
        head_dim=asked["head_dim"],
        tie_word_embeddings=asked["tied"],
    )
    training = TrainingConfig(
        precision=asked["dtype"],
        quantization=asked["quant"],
        double_quant=asked["double"],
        optimizer="adam8bit" if "8bit" in asked["optimizer"] else "adamw",
        batch_size=asked["batch"],
        seq_len=asked["length"],
        lora_rank=asked["rank"],
        lora_targets=ALL if asked["targets"] == "all-linear" else list(asked["targets"]),
        grad_checkpoint=asked["checkpointing"],
        flash_attn=not asked["eager"],
    )
    name = next((key for word, key in GPUS.items() if word in asked["gpu"]), "t4")
    try:
        gpu = get_gpu(name)
    except (KeyError, ValueError):
        gpu = get_gpu("t4")
    report = estimate(model, training, gpu)
    mib = 2**20
    # as its own measuring script compares: tensors = total - overhead, allocator = total - 500 MiB of context
    return {
        "allocated": (report.total_mib - report.overhead_mib) * mib,
        "reserved": (report.total_mib - 500) * mib,
        "device": report.total_mib * mib,
    }


answers = {}
started = time.perf_counter()
for question in json.load(sys.stdin):
    if question["family"] == "encoder":
        answers[question["id"]] = {"refused": "decoders only"}
        continue
    try:
        answers[question["id"]] = answer(question)
    except (ValueError, KeyError, TypeError) as error:
        answers[question["id"]] = {"refused": str(error)}
print(json.dumps({"answers": answers, "seconds": (time.perf_counter() - started) / max(1, len(answers))}))
