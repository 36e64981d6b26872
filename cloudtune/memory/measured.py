"""What your own finished jobs say about the memory model: bars shrink with good runs and grow after a bad one. Pure.

A run belongs to a class: GPU, method with its quantisation, one worker or several. With n fair runs the bar of a class is
its starting value / sqrt(1 + n), never below 2 %, and never below 1.25 x the worst under-prediction that was seen. A run is fair
when its sequences could reach max_length; one that could not still counts when it needed more than predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.memory.device import Device
from cloudtune.memory.evidence import Evidence
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

NARROWEST = 0.02
CAUTION = 1.25  # on the worst under-prediction

Class = tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One finished job: its class, and its peak as predicted and as measured, in bytes of the same metric."""

    kind: Class
    predicted: int
    measured: int
    fair: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A class with its fair runs and its worst under-prediction as a fraction; 0 = never above the prediction."""

    kind: Class
    runs: int
    worst: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything seen, by class."""

    seen: tuple[Seen, ...] = ()

    def judge(self, proof: Evidence, recipe: Recipe, layout: Layout, device: Device) -> Evidence:
        """The evidence with what was seen of the job's class."""
        kind = class_of(recipe, layout, device.name)
        found = next((item for item in self.seen if item.kind == kind), None)
        if found is None or not (found.runs or found.worst > proof.bar):
            return proof
        bar = max(NARROWEST, CAUTION * found.worst, proof.bar / math.sqrt(1 + found.runs))
        said = f"the worst needed {found.worst:.1%} more than predicted" if found.worst else "none needed more than predicted"
        return Evidence(bar, f"{found.runs} of your own runs of this kind: {said}")


NOTHING = Measurements()


def class_of(recipe: Recipe, layout: Layout, device: str) -> Class:
    """GPU, method, several workers."""
    method = recipe.method
    words = f"{method.type}/{method.quantization}" if is_qlora(method) else method.type
    return device, words, layout.data_parallel > 1


def measurements(runs: Iterable[MemoryRun]) -> Measurements:
    """Runs by class, in the order of their names; those without a positive number on both sides are left out."""
    classes: dict[Class, list[MemoryRun]] = {}
    for run in runs:
        if run.predicted > 0 and run.measured > 0:
            classes.setdefault(run.kind, []).append(run)
    return Measurements(
        tuple(
            Seen(kind, sum(run.fair for run in found), max(0.0, *(run.measured / run.predicted - 1 for run in found)))
            for kind, found in sorted(classes.items())
        )
    )
