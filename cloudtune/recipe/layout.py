"""How a job lies on the machine: a plain value that plans, jobs and estimates carry. Loads no pydantic, which checks it as any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

WRITTEN: dict[str, Any] = {"extra": "forbid", "strict": True, "hide_input_in_errors": True}
"""How pydantic reads such a value from JSON: as strictly as a recipe (``Frozen`` in recipe/spec.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the work lies on the GPUs. ``gpus`` are per node; 0 means the CPU. Raises ValueError for what no machine can be."""

    __pydantic_config__: ClassVar[dict[str, Any]] = WRITTEN

    nodes: int = 1
    gpus: int = 1
    micro_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    sharding: Literal["none", "ddp", "fsdp"] = "none"
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        if min(self.nodes, self.micro_batch_size, self.gradient_accumulation_steps) < 1 or self.gpus < 0:
            raise ValueError("nodes, micro_batch_size and gradient_accumulation_steps are at least 1, gpus at least 0")

    @property
    def data_parallel(self) -> int:
        """Number of workers that each hold a micro batch."""
        return self.nodes * max(1, self.gpus)

    @property
    def batch_size(self) -> int:
        """Sequences per optimizer step over all workers."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel
