"""The reckoning: recipe + shape + layout + device -> Estimate. Pure, integers, no torch.

``estimate_memory`` is what planner and verbs call; its signature is stable. The tape of a job is made once and kept:
devices of one architecture share it.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, compress
from typing import TYPE_CHECKING

from cloudtune.memory.allocator import Replay, replay
from cloudtune.memory.autograd import WORKSPACE
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.memory.evidence import LEAST_BYTES, LEAST_BYTES_CPU, evidence_for
from cloudtune.memory.measured import NOTHING, Measurements
from cloudtune.memory.parallel import communication_bytes
from cloudtune.memory.program import Job, tape_of, workspace_bytes
from cloudtune.memory.tape import Tape
from cloudtune.memory.trainer import trainer_behaviour
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

SMALLER_WORKSPACE, LARGER_WORKSPACE = (8, 0), (9, 0)  # two classes of kernel_class that differ in nothing else
KEPT = 64  # tapes, of one or two MiB each
ORDER = (
    "weights",
    "adapters",
    "gradients",
    "optimizer states",
    "activations",
    "logits and loss",
    "autocast copies",
    "unpacked weights",
    "gathered layers",
    "communication",
    "workspaces",
    "batch",
)


@dataclass(frozen=True, slots=True)
class Reckoned:
    """A tape with its replay, and what was live at the peak: kind -> bytes."""

    tape: Tape
    result: Replay
    parts: tuple[tuple[str, int], ...]
    phase: str


def estimate_memory(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, measured: Measurements = NOTHING) -> Estimate:
    """Peak memory per GPU (of the process on the CPU) in bytes, itemised at the peak moment.

    ``measured``: what finished jobs say, which moves the error bar and nothing else.

    Raises UsageError for architectures that have no template.
    """
    reckoned = reckon(job_of(recipe, shape, layout, device))
    result = reckoned.result
    slack = result.peak_reserved - sum(size for _, size in reckoned.parts)
    parts = [MemoryPart(name=name, bytes=size) for name, size in reckoned.parts]
    parts.append(MemoryPart(name="allocator slack", bytes=slack))
    talk = communication_bytes(layout.data_parallel) if device.kind == "cuda" else 0
    context = device.context_bytes + talk
    parts.append(MemoryPart(name="context", bytes=device.context_bytes))
    if talk:
        parts.append(MemoryPart(name="NCCL", bytes=talk))
    peak = result.peak_reserved + context
    proof = measured.judge(evidence_for(recipe, shape, layout, device), recipe, layout, device)
    bar = max(proof.bar, _least_margin(device) / peak)
    return Estimate(
        peak_bytes=peak,
        allocated_bytes=result.peak_allocated,
        reserved_bytes=result.peak_reserved,
        context_bytes=context,
        error_bar=bar,
        low_bytes=max(0, math.floor(peak * (1 - bar))),
        high_bytes=math.ceil(peak * (1 + bar)),
        parts=tuple(parts),
        peak_phase=reckoned.phase,
        evidence=proof.words,
    )


def at_least_bytes(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, measured: Measurements = NOTHING) -> int:
    """A floor of ``estimate_memory(...).high_bytes`` for a third of its time: live memory, context and margin, no allocator.

    Raises UsageError for architectures that have no template.
    """
    talk = communication_bytes(layout.data_parallel) if device.kind == "cuda" else 0
    peak = live_peak(job_of(recipe, shape, layout, device)) + device.context_bytes + talk
    proof = measured.judge(evidence_for(recipe, shape, layout, device), recipe, layout, device)
    return peak + max(_least_margin(device), math.floor(peak * proof.bar))


def _least_margin(device: Device) -> int:
    return LEAST_BYTES_CPU if device.kind == "cpu" else LEAST_BYTES


def job_of(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> Job:
    """The job as our trainer runs it, for one worker."""
    return Job(
        shape=shape,
        method=recipe.method,
        behaviour=trainer_behaviour(recipe, layout, device),
        batch=layout.micro_batch_size,
        length=recipe.data.max_length,
        capability=kernel_class(device.compute_capability),
        shards=layout.data_parallel if layout.sharding == "fsdp" else 1,
        replicas=2 if layout.sharding == "ddp" else 1,  # how many there are changes no size
        offload=layout.cpu_offload,
        task="masked_lm" if recipe.task == "masked_lm" else "causal_lm",
    )


def kernel_class(capability: tuple[int, int]) -> tuple[int, int]:
    """The oldest GPU that runs the same kernels: flash attention from 8.0, larger cuBLAS workspaces from 9.0 on."""
    major = capability[0]
    return (0, 0) if major == 0 else (7, 5) if major < 8 else (8, 0) if major == 8 else (9, 0)


@contextmanager
def _without_collector() -> Iterator[None]:
    """No cyclic garbage collection meanwhile: tens of thousands of small objects, none of them in a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@lru_cache(maxsize=KEPT)
def tape_for(job: Job) -> Tape:
    """The tape of a job, kept for the last jobs."""
    if job.capability == LARGER_WORKSPACE:
        return _with_workspace(tape_for(replace(job, capability=SMALLER_WORKSPACE)))
    with _without_collector():
        return tape_of(job)


def _with_workspace(tape: Tape) -> Tape:
    """The same run where cuBLAS takes a larger workspace, which is all that differs between these classes of GPUs."""
    waiting = [ident for ident, name in enumerate(tape.names) if name == WORKSPACE]
    events, ident = list(tape.events), -1
    for position, event in enumerate(tape.events):
        if not waiting:
            break
        if event > 0:
            ident += 1
            if ident == waiting[0]:
                events[position] = workspace_bytes(LARGER_WORKSPACE)
                del waiting[0]
    return replace(tape, events=events)


@lru_cache(maxsize=1024)
def live_peak(job: Job) -> int:
    """The most that is live at once, each tensor rounded up to 512 bytes: what an expandable allocator's ``allocated`` shows."""
    tape = tape_for(job)
    events = tape.events[: tape.end] if tape.end >= 0 else tape.events
    sizes = [(event + 511) & -512 for event in events if event > 0]
    return max(accumulate([(event + 511) & -512 if event > 0 else -sizes[~event] for event in events]), default=0)


@lru_cache(maxsize=KEPT)
def reckon(job: Job) -> Reckoned:
    """Tape, replay and the make-up of the peak, kept for the last jobs."""
    tape = tape_for(job)
    with _without_collector():
        result = replay(tape, expandable=job.behaviour.allocator == "expandable")
    live = live_at(tape, result.peak_position)
    sums: dict[str, int] = {}
    for ident, size in live.items():
        kind = tape.kinds[ident]
        sums[kind] = sums.get(kind, 0) + -(-size // 512) * 512
    parts = tuple((kind, sums[kind]) for kind in sorted(sums, key=_rank))
    return Reckoned(tape, result, parts, phase_at(tape, result.peak_position))


def _rank(kind: str) -> tuple[int, str]:
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)


def live_at(tape: Tape, position: int) -> dict[int, int]:
    """Live storages after the event at ``position``: id -> bytes asked for."""
    events = tape.events[: position + 1]
    sizes = [event for event in events if event > 0]
    alive = bytearray(b"\x01") * len(sizes)
    for event in events:
        if event < 0:
            alive[~event] = 0
    return {ident: sizes[ident] for ident in compress(range(len(sizes)), alive)}


def phase_at(tape: Tape, position: int) -> str:
    """The phase that the event at ``position`` belongs to."""
    return [phase for start, phase in tape.marks if start <= position][-1]
