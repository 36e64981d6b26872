"""An estimate as a curve: live memory by kind over the run, for plotting. Pure values, no layout.

The horizontal axis counts allocations and frees, not seconds: a moment with many small tensors looks long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.memory.device import Device
from cloudtune.memory.reckon import ORDER, job_of, reckon
from cloudtune.memory.tape import Tape
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe


@dataclass(frozen=True, slots=True)
class Point:
    """Live bytes after the event at ``position``, in all and for each of ``Timeline.kinds``, and the phase it belongs to."""

    position: int
    bytes: int
    phase: str
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """At most as many points as asked for, each the highest of its stretch of events; ``kinds`` in drawing order.

    ``peak_bytes``: the highest live memory; ``reserved_bytes``: what the allocator held at most; ``total_bytes``: the device.
    """

    kinds: tuple[str, ...]
    points: tuple[Point, ...]
    peak_bytes: int
    reserved_bytes: int
    context_bytes: int
    total_bytes: int
    device: str

    @property
    def highest(self) -> Point:
        """The point of the peak."""
        return max(self.points, key=lambda point: point.bytes)

    @property
    def phases(self) -> tuple[tuple[int, str], ...]:
        """(index of its first point, phase) of every phase in order."""
        found: list[tuple[int, str]] = []
        for index, point in enumerate(self.points):
            if not found or found[-1][1] != point.phase:
                found.append((index, point.phase))
        return tuple(found)


def timeline(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, points: int = 400) -> Timeline:
    """Live memory over loading and two steps. Raises UsageError for architectures without a template."""
    reckoned = reckon(job_of(recipe, shape, layout, device))
    tape = reckoned.tape
    found = tuple(_points(tape, _highest_places(tape, points)))
    used = [kind for index, kind in enumerate(_kinds(tape)) if any(point.parts[index] for point in found)]
    keep = [index for index, kind in enumerate(_kinds(tape)) if kind in used]
    return Timeline(
        kinds=tuple(used),
        points=tuple(Point(point.position, point.bytes, point.phase, tuple(point.parts[index] for index in keep)) for point in found),
        peak_bytes=reckoned.result.peak_allocated,
        reserved_bytes=reckoned.result.peak_reserved,
        context_bytes=device.context_bytes,
        total_bytes=device.total_bytes,
        device=device.name,
    )


def _kinds(tape: Tape) -> list[str]:
    """All kinds of the tape in the order of the itemised bar, so that what stays lies at the bottom."""
    present = set(tape.kinds)
    return [kind for kind in ORDER if kind in present] + sorted(present - set(ORDER))


def _end(tape: Tape) -> int:
    return tape.end if tape.end >= 0 else len(tape.events)


def _highest_places(tape: Tape, points: int) -> list[int]:
    """Where each stretch of events is at its highest."""
    end = _end(tape)
    stretch = max(1, -(-end // max(1, points)))
    sizes: list[int] = []
    places: list[int] = []
    live = 0
    highest = at = -1
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
            places.append(at)
            highest = -1
    return places


def _points(tape: Tape, places: list[int]) -> Iterator[Point]:
    """The make-up of the memory at each of the places, which ascend."""
    number = {kind: index for index, kind in enumerate(_kinds(tape))}
    slots = [number[kind] for kind in tape.kinds]
    sums = [0] * len(number)
    sizes: list[int] = []
    marks = [*tape.marks, (len(tape.events) + 1, "")]
    phase = start = 0
    for place in places:
        for event in tape.events[start : place + 1]:
            if event > 0:
                sums[slots[len(sizes)]] += event
                sizes.append(event)
            else:
                sums[slots[~event]] -= sizes[~event]
        start = place + 1
        while marks[phase + 1][0] <= place:
            phase += 1
        yield Point(place, sum(sums), marks[phase][1], tuple(sums))
