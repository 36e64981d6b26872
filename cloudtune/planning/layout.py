"""Which ways there are of laying the work on an offer's GPUs. Pure; knows neither memory nor price.

Every way keeps the global batch exactly: batch_size = micro batch x accumulation x data parallel. Whole replicas
(DDP), shards (FSDP) and shards with the rest in host memory are different ways, and so are the micro batches that
divide a worker's share. Illegal combinations are left out with their reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cloudtune.recipe.layout import Layout
from cloudtune.recipe.sharded import why_not_sharded
from cloudtune.recipe.spec import Recipe

Sharding = Literal["none", "ddp", "fsdp"]
LARGEST_MICRO_BATCH = 64
LARGEST_MICRO_BATCH_CPU = 8  # beyond it one core gains nothing and the progress view stands still


def layouts(recipe: Recipe, *, nodes: int, gpus: int) -> tuple[Layout, ...] | str:
    """Every legal layout on ``nodes`` machines of ``gpus`` GPUs (0 = the CPU), or why there is none."""
    workers = nodes * max(1, gpus)
    per_worker, rest = divmod(recipe.training.batch_size, workers)
    if rest or not per_worker:
        return _indivisible(recipe.training.batch_size, workers)
    sizes = _micro_batches(recipe, per_worker, cpu=gpus == 0)
    if not sizes:
        micro = recipe.training.micro_batch_size
        return f"batch_size {recipe.training.batch_size} is not micro_batch_size {micro} x {workers} workers x a whole number"
    return tuple(
        Layout(
            nodes=nodes,
            gpus=gpus,
            micro_batch_size=size,
            gradient_accumulation_steps=per_worker // size,
            gradient_checkpointing=checkpointing,
            sharding=sharding,
            cpu_offload=offload,
        )
        for sharding, offload in _spreads(recipe, workers)
        for checkpointing in _checkpointing(recipe)
        for size in sizes
    )


def _indivisible(batch_size: int, workers: int) -> str:
    nearest = max(1, round(batch_size / workers)) * workers
    return f"batch_size {batch_size} cannot be divided over {workers} workers; the nearest that can is {nearest}"


def _micro_batches(recipe: Recipe, per_worker: int, *, cpu: bool) -> list[int]:
    """Divisors of the worker's share, ascending; only the user's own when one is given."""
    wanted = recipe.training.micro_batch_size
    if wanted != "auto":
        return [wanted] if per_worker % wanted == 0 else []
    largest = LARGEST_MICRO_BATCH_CPU if cpu else LARGEST_MICRO_BATCH
    return [size for size in range(1, min(per_worker, largest) + 1) if per_worker % size == 0]


def _checkpointing(recipe: Recipe) -> Sequence[bool]:
    wanted = recipe.training.gradient_checkpointing
    return (False, True) if wanted == "auto" else (wanted,)


def _spreads(recipe: Recipe, workers: int) -> tuple[tuple[Sharding, bool], ...]:
    """(sharding, offload): replicas, and shards where method and optimizer allow them."""
    if workers == 1:
        return (("none", False),)
    if why_not_sharded(recipe) is not None:
        return (("ddp", False),)
    return (("ddp", False), ("fsdp", False), ("fsdp", True))
