"""The answer of the memory reckoning: itemised peak memory per GPU. Values and the one public function.

Three numbers, never one: what the allocator hands out (allocated), what it holds (reserved) and what the
device shows (peak = reserved + context). All in bytes per GPU; on the CPU, of the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cloudtune.recipe.layout import WRITTEN


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One named share of the peak, in bytes."""

    __pydantic_config__: ClassVar[dict[str, Any]] = WRITTEN

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Peak memory per GPU in bytes. ``peak_bytes`` = ``reserved_bytes`` + ``context_bytes`` = sum of ``parts``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = WRITTEN

    peak_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    context_bytes: int
    """CUDA context and libraries; on the CPU the interpreter with torch and transformers loaded."""
    error_bar: float
    """Half width as a fraction of the peak: the truth is expected within peak x (1 ± error_bar)."""
    low_bytes: int
    high_bytes: int
    """peak x (1 - error_bar) and peak x (1 + error_bar), rounded outwards."""
    parts: tuple[MemoryPart, ...]
    peak_phase: str = ""
    """Where the peak is: load, forward, loss, backward, optimizer, eval, save."""
    evidence: str = ""
    """What the error bar rests on, in words."""
