"""The machine against the estimate, before anything is downloaded: GPU there, memory enough, bfloat16 known. Looks only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtune_colab.ground import Stop

USABLE = 0.97  # of what nvidia-smi reports: the rest CUDA does not hand out
GIB = 2**30
MIB = 2**20
BF16_SINCE = 8.0
_QUESTION = ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Card:
    """One GPU as nvidia-smi tells of it: bytes in all, compute capability such as 7.5."""

    name: str
    memory_bytes: int
    capability: float


def cards(environ: Mapping[str, str] = os.environ) -> list[Card]:
    """The GPUs of this machine; empty without a driver."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return []
    answer = subprocess.run([program, *_QUESTION], capture_output=True, text=True, timeout=60, check=False)
    return read_cards(answer.stdout) if answer.returncode == 0 else []


def read_cards(text: str) -> list[Card]:
    """``Tesla T4, 15360, 7.5`` per line."""
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    return [Card(name, int(memory) * MIB, float(capability)) for name, memory, capability in rows]


def host_memory() -> int:
    """Bytes of this machine's memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def judge(orders: Mapping[str, Any], estimate: Mapping[str, Any], seen: Sequence[Card], memory: int) -> list[str]:
    """Sentences about the machine. ``estimate``: peak, low, high in bytes; the GPUs that fit. Raises Stop with what to choose."""
    if orders["device"] != "cuda":
        return [_enough("the memory of this machine", memory, estimate, "choose a runtime with more memory")]
    fits = " or ".join(estimate["fits"]) or estimate["gpu"]
    change = f"Runtime > Change runtime type > {fits}"
    if not seen:
        raise Stop(f"this runtime has no GPU, and the job needs one: {change}")
    card = seen[0]
    said = [_enough(card.name, int(card.memory_bytes * USABLE), estimate, change)]
    if orders["recipe"]["model"]["dtype"] == "bfloat16" and card.capability < BF16_SINCE:
        raise Stop(f"{card.name} has no bfloat16, which the recipe asks for: {change}, or render again with --set model.dtype=float16")
    return said


def _enough(what: str, usable: int, estimate: Mapping[str, Any], change: str) -> str:
    peak, low, high = (int(estimate[name]) for name in ("peak", "low", "high"))
    numbers = f"{what}: {usable / GIB:.1f} GiB usable, the estimate is {peak / GIB:.1f} GiB ({low / GIB:.1f} to {high / GIB:.1f})"
    if low > usable:
        raise Stop(f"{numbers}: it will not fit. {change}; or render again for a smaller job")
    if high > usable:
        return f"{numbers}: it may just fit; watch the first steps"
    return f"{numbers}: it fits"
