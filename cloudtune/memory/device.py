"""One memory device: a GPU, or the host when training runs on the CPU. Values and their tables; reads nothing.

What the allocator may use is ``total_bytes`` (the card's real size, not its name) minus the CUDA context. The
context is measured per GPU type where somebody published it and a class value otherwise; docs/memory.md lists both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloudtune.units import MIB

# CUDA context with lazily loaded kernels after the first steps, in MiB. Measured: T4 140.9 (torch 2.10-2.14, identical over
# 69 runs); RTX 6000 Ada 426 (torch 2.10+cu130, nvidia-smi). "300-400 MB" is what PyTorch's developers give for lazy loading.
CONTEXT_MIB = {"T4": 141, "RTX 6000 Ada": 426}
CONTEXT_MIB_BY_MAJOR = {7: 300, 8: 430, 9: 520, 10: 560, 12: 500}
CONTEXT_MIB_UNKNOWN = 520
# Resident memory of a Python process with torch, transformers, peft and bitsandbytes loaded: 490-620 MB were measured
# on CPU wheels (torch 2.13, 2026-08).
CPU_CONTEXT_BYTES = 620 * MIB
CAPABILITY_BY_NAME = {
    "P100": (6, 0),
    "V100": (7, 0),
    "T4": (7, 5),
    "A100": (8, 0),
    "A10": (8, 6),
    "A40": (8, 6),
    "A6000": (8, 6),
    "3090": (8, 6),
    "L4": (8, 9),
    "4090": (8, 9),
    "4080": (8, 9),
    "6000 Ada": (8, 9),
    "H100": (9, 0),
    "H200": (9, 0),
    "GH200": (9, 0),
    "B200": (10, 0),
    "B300": (10, 3),
    "RTX PRO 6000": (12, 0),
    "5090": (12, 0),
}


@dataclass(frozen=True, slots=True)
class Device:
    """What the reckoning needs of a device. Sizes in bytes; ``compute_capability`` is (0, 0) on the CPU."""

    kind: Literal["cuda", "cpu"]
    name: str
    total_bytes: int
    context_bytes: int
    compute_capability: tuple[int, int] = (0, 0)

    @classmethod
    def cuda(
        cls,
        name: str,
        *,
        total_bytes: int,
        compute_capability: tuple[int, int] | float | None = None,
        context_bytes: int | None = None,
    ) -> Device:
        """A GPU by its name; capability and context come from the tables above when they are not given."""
        capability = _capability(name, compute_capability)
        context = _context_mib(name, capability) * MIB if context_bytes is None else context_bytes
        return cls("cuda", name, total_bytes, context, capability)

    @classmethod
    def cpu(cls, *, total_bytes: int, context_bytes: int = CPU_CONTEXT_BYTES) -> Device:
        """The host. Its context is the interpreter with torch and transformers loaded."""
        return cls("cpu", "cpu", total_bytes, context_bytes)

    @property
    def usable_bytes(self) -> int:
        """What is left for the allocator."""
        return max(0, self.total_bytes - self.context_bytes)


def _capability(name: str, given: tuple[int, int] | float | None) -> tuple[int, int]:
    """(major, minor); offers write it as a number such as 8.6."""
    if isinstance(given, tuple):
        return given
    if given:
        return int(given), round(given * 10) % 10
    matches = [key for key in CAPABILITY_BY_NAME if key in name]
    return CAPABILITY_BY_NAME[max(matches, key=len)] if matches else (8, 0)


def _context_mib(name: str, capability: tuple[int, int]) -> int:
    matches = [key for key in CONTEXT_MIB if key in name]
    if matches:
        return CONTEXT_MIB[max(matches, key=len)]
    return CONTEXT_MIB_BY_MAJOR.get(capability[0], CONTEXT_MIB_UNKNOWN)
