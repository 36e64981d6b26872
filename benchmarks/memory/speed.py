"""How long an estimate takes: processor time in this process, best of seven, and a whole fresh interpreter.

    python benchmarks/memory/speed.py

A busy machine counts its neighbours' work into everybody's processor time; the last column divides by how much slower a
fixed piece of work is now than on the calm machine that the goals were set on (tests/pace.py).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cloudtune.memory.device import Device  # noqa: E402
from cloudtune.memory.reckon import estimate_memory, reckon, tape_for  # noqa: E402
from cloudtune.models.registry import find_shape  # noqa: E402
from cloudtune.recipe.layout import Layout  # noqa: E402
from cloudtune.recipe.spec import Recipe  # noqa: E402
from tests.pace import slowness  # noqa: E402

GIB = 2**30
CASES = (("meta-llama/Llama-3.1-8B", 1, 50), ("meta-llama/Llama-3.1-70B", 8, 200), ("meta-llama/Llama-3.1-405B", 8, 200))


def once(model: str, gpus: int) -> float:
    """Milliseconds of processor time of one full estimate."""
    data = {"train": [{"path": "rows.jsonl"}], "max_length": 2048}
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "name": "speed",
            "model": {"base": model},
            "method": {"type": "qlora"},
            "data": data,
            "training": {"fused_loss": True, "batch_size": gpus},
        }
    )
    layout = Layout(
        gpus=gpus,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        sharding="fsdp" if gpus > 1 else "none",
    )
    shape, device = find_shape(model, base_dir=ROOT), Device.cuda("L4", total_bytes=23 * GIB)
    reckon.cache_clear()
    tape_for.cache_clear()
    start = time.process_time()
    estimate_memory(recipe, shape, layout, device)
    return (time.process_time() - start) * 1e3


def fresh() -> float:
    """Seconds of a fresh interpreter that imports the reckoning and makes one estimate."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import benchmarks.memory.speed as s; s.once({CASES[0][0]!r}, 1)"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - start


if __name__ == "__main__":
    for model, gpus, goal in CASES:
        pace = slowness()
        best = min(once(model, gpus) for _ in range(7))
        print(f"{model:32} {gpus} GPU{'s' if gpus > 1 else ' '}  {best:6.1f} ms (goal {goal}), on a calm core {best / pace:6.1f} ms")
    print(f"fresh interpreter, import and one estimate: {min(fresh() for _ in range(3)):.2f} s")
