"""Which way of laying the work on an offer's GPUs is fastest and fits. Pure; memory comes in as a function.

The global batch is kept exactly: batch_size = micro batch x accumulation x data parallel. For one offer the ways
are tried from fast to slow: without checkpointing before with it, whole replicas before sharded ones, and in
each the largest micro batch that fits (found by bisection: memory never falls when the micro batch grows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cloudtune.memory.estimate import Estimate
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe

Sharding = Literal["none", "ddp", "fsdp"]
MemoryOf = Callable[[Layout], Estimate]
LARGEST_MICRO_BATCH = 64
LARGEST_MICRO_BATCH_CPU = 8  # beyond it one core gains nothing and the progress view stands still


@dataclass(frozen=True, slots=True)
class Fit:
    """A layout that fits, or (``estimate`` above the limit) the leanest one that was tried."""

    layout: Layout
    estimate: Estimate
    fits: bool


def best_fit(recipe: Recipe, *, nodes: int, gpus: int, limit_bytes: int, memory_of: MemoryOf) -> Fit | str:
    """The fastest layout within ``limit_bytes`` per GPU, else the leanest; a sentence when the batch can't be divided."""
    workers = nodes * max(1, gpus)
    per_worker, rest = divmod(recipe.training.batch_size, workers)
    if rest or not per_worker:
        return _indivisible(recipe.training.batch_size, workers)
    micro_batches = _micro_batches(recipe, per_worker, cpu=gpus == 0)
    if not micro_batches:
        micro = recipe.training.micro_batch_size
        return f"batch_size {recipe.training.batch_size} is not micro_batch_size {micro} x {workers} workers x a whole number"
    leanest: Fit | None = None
    for checkpointing in _checkpointing(recipe):
        for sharding in _shardings(workers):
            build = _builder(nodes, gpus, per_worker, checkpointing, sharding)
            fit = _largest(micro_batches, build, limit_bytes, memory_of)
            if fit.fits:
                return fit
            if leanest is None or fit.estimate.high_bytes < leanest.estimate.high_bytes:
                leanest = fit
    assert leanest is not None  # noqa: S101 - both loops run at least once
    return leanest


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


def _shardings(workers: int) -> Sequence[Sharding]:
    return ("none",) if workers == 1 else ("ddp", "fsdp")


def _builder(nodes: int, gpus: int, per_worker: int, checkpointing: bool, sharding: Sharding) -> Callable[[int], Layout]:
    def build(micro_batch: int) -> Layout:
        return Layout(
            nodes=nodes,
            gpus=gpus,
            micro_batch_size=micro_batch,
            gradient_accumulation_steps=per_worker // micro_batch,
            gradient_checkpointing=checkpointing,
            sharding=sharding,
        )

    return build


def _largest(sizes: Sequence[int], build: Callable[[int], Layout], limit_bytes: int, memory_of: MemoryOf) -> Fit:
    """The largest of the ascending ``sizes`` that fits; the smallest, marked as not fitting, when none does."""
    smallest = build(sizes[0])
    estimate = memory_of(smallest)
    if estimate.high_bytes > limit_bytes:
        return Fit(smallest, estimate, fits=False)
    best = Fit(smallest, estimate, fits=True)
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high + 1) // 2
        layout = build(sizes[middle])
        estimate = memory_of(layout)
        if estimate.high_bytes <= limit_bytes:
            best, low = Fit(layout, estimate, fits=True), middle
        else:
            high = middle - 1
    return best
