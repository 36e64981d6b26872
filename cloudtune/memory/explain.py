"""An estimate in words: where the peak is, which tensors make it, what would lower it and what has done so. Pure.

Every saving is the difference of two replays, never a formula.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloudtune.memory.device import Device
from cloudtune.memory.loss import KIND
from cloudtune.memory.program import Job
from cloudtune.memory.reckon import Reckoned, job_of, live_at, reckon
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout
from cloudtune.units import gib

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

FUSED = "training.fused_loss: true"
MOST_SHARES = 5
MOST_SAVINGS = 4
LAYER = re.compile(r"\.\d+\.")
PHASES = {
    "load": "loading",
    "forward": "the forward pass",
    "loss": "the loss",
    "backward": "the backward pass",
    "optimizer": "the optimizer step",
}


@dataclass(frozen=True, slots=True)
class Share:
    """Tensors of one name at the peak: how many, and their bytes together."""

    kind: str
    name: str
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Saving:
    """A change that would lower the peak, with the bytes it saves."""

    what: str
    bytes: int


def shares_at_peak(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, most: int = 12) -> tuple[Share, ...]:
    """The largest groups of equal tensors at the peak, largest first; names without layer numbers."""
    return _shares(reckon(job_of(recipe, shape, layout, device)))[:most]


def _shares(reckoned: Reckoned) -> tuple[Share, ...]:
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    tape = reckoned.tape
    for ident, size in live_at(tape, reckoned.result.peak_position).items():
        key = (tape.kinds[ident], LAYER.sub(".*.", tape.names[ident]))
        count, total = sums.get(key, (0, 0))
        sums[key] = (count + 1, total + size)
    shares = [Share(kind, name, count, total) for (kind, name), (count, total) in sums.items()]
    return tuple(sorted(shares, key=lambda share: (-share.bytes, share.name)))


def savings(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> tuple[Saving, ...]:
    """What single changes would save, largest first; only those that save something."""
    return _savings(job_of(recipe, shape, layout, device))


def _savings(job: Job) -> tuple[Saving, ...]:
    now = reckon(job).result.peak_reserved
    found = [Saving(words, now - reckon(other).result.peak_reserved) for words, other in _changes(job)]
    return tuple(sorted((saving for saving in found if saving.bytes > 0), key=lambda saving: -saving.bytes))


def _changes(job: Job) -> list[tuple[str, Job]]:
    behaviour = job.behaviour
    changes = []
    if behaviour.loss == "full" and job.task == "causal_lm":
        changes.append((FUSED, replace(job, behaviour=replace(behaviour, loss="chunked"))))
    if not behaviour.checkpointing:
        changes.append(("training.gradient_checkpointing: true", replace(job, behaviour=replace(behaviour, checkpointing=True))))
    if behaviour.optimizer == "adamw" and job.shards == 1:  # bitsandbytes' optimizers take no shards
        eight = replace(behaviour, optimizer="adamw_8bit")
        changes.append(("training.optimizer: adamw_8bit", replace(job, behaviour=eight)))
    if job.batch > 1:
        changes.append((f"training.micro_batch_size: {job.batch // 2}", replace(job, batch=job.batch // 2)))
    if job.length > 256:
        changes.append((f"data.max_length: {job.length // 2}", replace(job, length=job.length // 2)))
    return changes


def _saved(job: Job) -> list[str]:
    """What choices that were made keep away, each from a replay without it."""
    behaviour, now, said = job.behaviour, reckon(job).result.peak_reserved, []
    if behaviour.loss == "chunked":
        without = reckon(replace(job, behaviour=replace(behaviour, loss="full")))
        if (saved := without.result.peak_reserved - now) > 0:
            said.append(f"the fused loss saves {gib(saved)}: the full one would hold {_logits(job, without)}")
    if behaviour.checkpointing:
        without = reckon(replace(job, behaviour=replace(behaviour, checkpointing=False)))
        if (saved := without.result.peak_reserved - now) > 0:
            said.append(f"gradient checkpointing saves {gib(saved)}")
    return said


def _logits(job: Job, reckoned: Reckoned) -> str:
    """The loss in numbers; 0 bytes where it holds nothing at the peak."""
    held, tokens, words = dict(reckoned.parts).get(KIND, 0), job.batch * job.length, job.shape.vocab_size
    return f"{held / (tokens * words):.0f} bytes x {tokens:,} tokens x {words:,} vocabulary = {gib(held)}"


def _place(job: Job, reckoned: Reckoned) -> str:
    """Where the peak is: the phase, but the loss where what was allocated last belongs to it."""
    tape, position = reckoned.tape, reckoned.result.peak_position
    newest = sum(1 for event in tape.events[: position + 1] if event > 0) - 1
    live = gib(reckoned.result.peak_allocated)
    if tape.kinds[newest] == KIND and job.behaviour.loss == "full" and job.task == "causal_lm":
        return f"the peak of {live} live memory is in the loss: {_logits(job, reckoned)}"
    return f"the peak of {live} live memory is in {PHASES.get(reckoned.phase, reckoned.phase)}"


def explain(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> tuple[str, ...]:
    """The peak in sentences: where it is, what fills it, what would lower it, what has lowered it."""
    job = job_of(recipe, shape, layout, device)
    reckoned = reckon(job)
    found = _savings(job)
    first = _place(job, reckoned)
    fused = next((saving for saving in found if saving.what == FUSED), None)
    if fused is not None and "in the loss" in first:
        first += f"; {FUSED} saves {gib(fused.bytes)}"
        found = tuple(saving for saving in found if saving is not fused)
    words = [first]
    for share in _shares(reckoned)[:MOST_SHARES]:
        many = f"{share.count:,} x " if share.count > 1 else ""
        words.append(f"{gib(share.bytes)} in {many}{share.name} ({share.kind})")
    words.extend(f"{saving.what} would save {gib(saving.bytes)}" for saving in found[:MOST_SAVINGS])
    return (*words, *_saved(job))
