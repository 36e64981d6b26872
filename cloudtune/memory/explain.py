"""An estimate in words and as a curve: where the peak is, which tensors make it, what would lower it. Pure values, no layout."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cloudtune.memory.device import Device
from cloudtune.memory.program import Job
from cloudtune.memory.reckon import Reckoned, job_of, live_at, reckon
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import gib

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
class Point:
    """Live bytes after an event, and the phase it belongs to."""

    position: int
    bytes: int
    phase: str


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


def timeline(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, points: int = 400) -> tuple[Point, ...]:
    """Live memory over the run for plotting: at most ``points`` values, each the highest of its stretch of events."""
    reckoned = reckon(job_of(recipe, shape, layout, device))
    tape = reckoned.tape
    end = tape.end if tape.end >= 0 else len(tape.events)
    stretch = max(1, -(-end // points))
    sizes: list[int] = []
    live = highest = at = 0
    found: list[Point] = []
    marks = [*tape.marks, (end + 1, "")]
    phase = 0
    for position in range(end):
        event = tape.events[position]
        if event > 0:
            sizes.append(event)
            live += event
        else:
            live -= sizes[~event]
        if live >= highest:
            highest, at = live, position
        if (position + 1) % stretch == 0 or position == end - 1:
            while marks[phase + 1][0] <= at:
                phase += 1
            found.append(Point(at, highest, marks[phase][1]))
            highest = 0
    return tuple(found)


def savings(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> tuple[Saving, ...]:
    """What single changes would save, largest first; only those that save something."""
    job = job_of(recipe, shape, layout, device)
    now = reckon(job).result.peak_reserved
    found = [Saving(words, now - reckon(other).result.peak_reserved) for words, other in _changes(job)]
    return tuple(sorted((saving for saving in found if saving.bytes > 0), key=lambda saving: -saving.bytes))


def _changes(job: Job) -> list[tuple[str, Job]]:
    behaviour = job.behaviour
    changes = []
    if behaviour.loss == "full" and job.task == "causal_lm":
        changes.append(("training.fused_loss: true", replace(job, behaviour=replace(behaviour, loss="chunked"))))
    if not behaviour.checkpointing:
        changes.append(("training.gradient_checkpointing: true", replace(job, behaviour=replace(behaviour, checkpointing=True))))
    if behaviour.optimizer == "adamw":
        eight = replace(behaviour, optimizer="adamw_8bit")
        changes.append(("training.optimizer: adamw_8bit", replace(job, behaviour=eight)))
    if job.batch > 1:
        changes.append((f"training.micro_batch_size: {job.batch // 2}", replace(job, batch=job.batch // 2)))
    if job.length > 256:
        changes.append((f"data.max_length: {job.length // 2}", replace(job, length=job.length // 2)))
    return changes


def explain(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> tuple[str, ...]:
    """The peak in sentences: where it is, what fills it, what would lower it."""
    job = job_of(recipe, shape, layout, device)
    reckoned = reckon(job)
    words = [f"the peak of {gib(reckoned.result.peak_allocated)} live memory is in {PHASES.get(reckoned.phase, reckoned.phase)}"]
    logits = dict(reckoned.parts).get("logits and loss", 0)
    tokens = job.batch * job.length
    if logits > reckoned.result.peak_allocated // 20 and job.behaviour.loss == "full":
        each = logits / (tokens * shape.vocab_size)
        words.append(f"the loss holds {each:.0f} bytes x {tokens:,} tokens x {shape.vocab_size:,} words = {gib(logits)}")
    for share in _shares(reckoned)[:4]:
        many = f"{share.count:,} x " if share.count > 1 else ""
        words.append(f"{gib(share.bytes)} in {many}{share.name} ({share.kind})")
    words.extend(f"{saving.what} saves {gib(saving.bytes)}" for saving in savings(recipe, shape, layout, device)[:3])
    return tuple(words)
