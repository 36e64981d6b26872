"""What this machine has: cores, memory and NVIDIA GPUs. Reads the system, changes nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """One GPU as nvidia-smi names it; memory in bytes; compute capability such as 8.9 (0 when unknown)."""

    name: str
    memory_bytes: int
    compute_capability: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of this machine; ``memory_bytes`` is what this process may use (cgroup limit included)."""

    cores: int
    memory_bytes: int
    gpus: tuple[LocalGpu, ...]


def this_machine() -> Machine:
    """The facts, now. Asking nvidia-smi takes about 50 ms where it exists and nothing elsewhere."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cores, _memory(), _gpus())


def _memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(Path(path)) for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    return min([physical, *[limit for limit in limits if limit]])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _gpus() -> tuple[LocalGpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    import subprocess  # 5 ms that a machine without GPUs need not spend

    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(gpu for line in answer.stdout.splitlines() if (gpu := _gpu(line)) is not None)


def _gpu(line: str) -> LocalGpu | None:
    fields = [field.strip() for field in line.split(",")]
    try:
        return LocalGpu(fields[0], int(float(fields[1]) * 2**20), float(fields[2]))
    except (IndexError, ValueError):
        return None
