"""Runs inside canifinetune's environment: questions on stdin, answers on stdout."""

import json
import sys
import time

sys.path = [place for place in sys.path if not place.endswith("adapters")]  # this file has the package's name

from canifinetune.estimator.memory import EstimateRequest, estimate  # noqa: E402


def answer(asked: dict) -> dict:
    targets = asked["targets"]
    request = EstimateRequest(
        model_id=asked["model"].partition(" (")[0],
        method=asked["method"],
        seq_len=asked["length"],
        micro_batch_size=asked["batch"],
        base_dtype=asked["dtype"],
        quantization="nf4_double_quant" if asked["double"] else "nf4" if asked["quant"] == "nf4" else "none",
        lora_rank=asked["rank"] or 16,
        lora_target_scope="all_linear" if targets == "all-linear" else "attention",
        optimizer="paged_adamw_8bit" if "8bit" in asked["optimizer"] else "adamw_torch",
        gradient_checkpointing=asked["checkpointing"],
        attention_implementation="eager" if asked["eager"] else "sdpa",
        gpu_vram_gb=16,
        use_network=False,
    )
    memory = estimate(request).memory.model_dump()
    gib = 2**30
    total, margin, context = memory["total_estimated_gb"], memory["safety_margin_gb"], memory["cuda_overhead_gb"]
    # its components without overhead are tensors; it reports what the process reserves as the total without its margin
    return {"allocated": (total - margin - context) * gib, "reserved": (total - margin) * gib, "device": (total - margin) * gib}


answers = {}
started = time.perf_counter()
for question in json.load(sys.stdin):
    if question["family"] == "encoder":
        answers[question["id"]] = {"refused": "decoders only"}
        continue
    try:
        answers[question["id"]] = answer(question)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is a refusal
        answers[question["id"]] = {"refused": str(error)[:200]}
print(json.dumps({"answers": answers, "seconds": (time.perf_counter() - started) / max(1, len(answers))}))
