"""Does a job fit a device? The capacity-limited replay, pruned by bounds; and the inverse questions. Pure.

"Fits" is: the whole tape replays within card - context - communication - margin, where the allocator returns free segments
before it gives up, as the real one does. Most questions end earlier: the closed-form floor (``memory/bounds.py``) is too much,
or the live memory of the unlimited replay is, or all its segments fit at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from cloudtune.memory.allocator import replay
from cloudtune.memory.bounds import floor_bytes
from cloudtune.memory.device import Device
from cloudtune.memory.evidence import LEAST_BYTES, LEAST_BYTES_CPU, evidence_for
from cloudtune.memory.parallel import communication_bytes
from cloudtune.memory.program import Job
from cloudtune.memory.reckon import job_of, live_peak, reckon, tape_for
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

STRAIGHT_TRIES = 12  # before the search gives up on straight lines
BELOW_LIVE = 32  # a boundary is looked for in steps of this part below the one of live memory


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer with what it rests on, in bytes. ``margin`` is kept free because of the class of evidence."""

    fits: bool
    capacity: int
    margin: int
    lower: int
    upper: int
    replayed: bool
    words: str


def fits(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> Verdict:
    """Whether the job runs on the device. Raises UsageError for architectures without a template."""
    job = job_of(recipe, shape, layout, device)
    capacity, margin = room(recipe, shape, layout, device)
    return judge(job, capacity, margin=margin)


def room(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> tuple[int, int]:
    """(what the allocator may use, the margin that is kept free), in bytes."""
    proof = evidence_for(recipe, shape, layout, device)
    least = LEAST_BYTES_CPU if device.kind == "cpu" else LEAST_BYTES
    talk = communication_bytes(layout.data_parallel) if device.kind == "cuda" else 0
    # the margin is a fraction of the peak, so at the edge it is that fraction of the card
    margin = max(least, device.total_bytes - int(device.total_bytes / (1 + proof.bar)))
    return device.total_bytes - device.context_bytes - talk - margin, margin


def judge(job: Job, capacity: int, *, margin: int = 0) -> Verdict:
    """Whether the job's tape replays within ``capacity`` bytes of reserved memory."""
    floor = floor_bytes(job)
    if floor > capacity:
        return Verdict(False, capacity, margin, floor, floor, False, "weights and optimizer states alone are larger than the device")
    lower, upper = bounds(job)
    if upper <= capacity:
        return Verdict(True, capacity, margin, lower, upper, False, "all segments fit at once")
    if lower > capacity:
        return Verdict(False, capacity, margin, lower, upper, False, "the live tensors alone are larger than the device")
    done = _replays(job, capacity)
    words = "fits when the allocator returns free segments" if done else "no room for the next segment, even after returning free ones"
    return Verdict(done, capacity, margin, lower, upper, True, words)


def bounds(job: Job) -> tuple[int, int]:
    """(live bytes at the peak, segments at the peak): below the first it cannot run, from the second on it must."""
    result = reckon(job).result
    return result.peak_allocated, result.peak_reserved


@lru_cache(maxsize=1024)
def _replays(job: Job, capacity: int) -> bool:
    return replay(tape_for(job), expandable=job.behaviour.allocator == "expandable", capacity=capacity).failed_at < 0


def longest_sequence(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, most: int = 1 << 20) -> int:
    """The largest max_length that fits, in tokens; 0 when not even one token does. Exact: one more does not fit.

    Never above the positions that the model has, nor above ``most``.
    """

    def job(length: int) -> Job:
        data = recipe.data.model_copy(update={"max_length": length})
        return job_of(recipe.model_copy(update={"data": data}), shape, layout, device)

    return _largest(job, room(recipe, shape, layout, device)[0], min(most, shape.max_positions or most))


def biggest_micro_batch(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, most: int = 4096) -> int:
    """The largest micro batch that fits, in sequences; 0 when not even one does. Exact: one more does not fit."""

    def job(size: int) -> Job:
        return job_of(recipe, shape, replace(layout, micro_batch_size=size), device)

    return _largest(job, room(recipe, shape, layout, device)[0], most)


def _largest(job: Callable[[int], Job], capacity: int, most: int) -> int:
    """The largest number up to ``most`` whose job replays within the capacity: the next one does not, unless it is above ``most``.

    Two monotone searches: first the last number whose live memory alone is within the capacity, which needs no replay
    and lies on nearly straight lines; the answer is at or a little below it.
    """
    if not _runs(job(1), capacity):
        return 0
    top = _last_alive(job, capacity, most)
    step = max(1, top // BELOW_LIVE)
    low, high = top, top + 1
    while not _runs(job(low), capacity):  # 1 does, so this ends
        low, high = max(1, low - step), low
        step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _runs(job(middle), capacity) else (low, middle)
    return low


def _runs(job: Job, capacity: int) -> bool:
    """What ``judge`` says, with one replay at most."""
    return floor_bytes(job) <= capacity and live_peak(job) <= capacity and _replays(job, capacity)


def _last_alive(job: Callable[[int], Job], capacity: int, most: int) -> int:
    """The largest number up to ``most`` whose live memory is within the capacity; that of 1 is."""
    low, high = (1, live_peak(job(1))), (1, 0)
    while high[1] <= capacity:
        if high[0] == most:
            return most
        low, number = high if high[1] else low, min(high[0] * 4, most)
        high = number, live_peak(job(number))
    tries = 0
    while high[0] - low[0] > 1:
        tries += 1
        at = _meeting(low, high, capacity, above=tries % 2 == 0) if tries < STRAIGHT_TRIES else (low[0] + high[0]) // 2
        found = at, live_peak(job(at))
        low, high = (found, high) if found[1] <= capacity else (low, found)
    return low[0]


def _meeting(low: tuple[int, int], high: tuple[int, int], capacity: int, *, above: bool) -> int:
    """Between the ends, where the line through them meets the capacity, or one further, so that the upper end moves too."""
    (left, fit), (right, too_much) = low, high
    at = left + (right - left) * (capacity - fit) // (too_much - fit)
    return min(right - 1, max(left + 1, at + 1 if above else at))
