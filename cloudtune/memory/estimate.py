"""The answer of the memory reckoning: itemised peak memory per GPU. Values and the one public function.

Three numbers, never one: what the allocator hands out (allocated), what it holds (reserved) and what the
device shows (peak = reserved + context). All in bytes per GPU; on the CPU, of the process.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cloudtune.recipe.spec import Frozen


class MemoryPart(Frozen):
    """One named share of the peak, in bytes."""

    name: str
    bytes: Annotated[int, Field(ge=0)]


class Estimate(Frozen):
    """Peak memory per GPU in bytes. ``peak_bytes`` = ``reserved_bytes`` + ``context_bytes`` = sum of ``parts``."""

    peak_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    context_bytes: int
    """CUDA context and libraries; on the CPU the interpreter with torch and transformers loaded."""
    error_bar: Annotated[float, Field(ge=0)]
    """Half width as a fraction of the peak: the truth is expected within peak x (1 ± error_bar)."""
    low_bytes: int
    high_bytes: int
    """peak x (1 - error_bar) and peak x (1 + error_bar), rounded outwards."""
    parts: tuple[MemoryPart, ...] = Field(strict=False)
    peak_phase: str = ""
    """Where the peak is: load, forward, loss, backward, optimizer, eval, save."""
    evidence: str = ""
    """What the error bar rests on, in words."""
