"""Does a job fit a device? The capacity-limited replay, pruned by bounds; and the inverse questions. Pure.

"Fits" is: the whole tape replays within card - context - communication - margin, where the allocator returns free segments
before it gives up, as the real one does. Most questions end earlier: the closed-form floor (``memory/bounds.py``) is too much,
or the live memory of the unlimited replay is, or all its segments fit at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cloudtune.memory.allocator import replay
from cloudtune.memory.bounds import floor_bytes
from cloudtune.memory.device import Device
from cloudtune.memory.evidence import LEAST_BYTES, LEAST_BYTES_CPU, evidence_for
from cloudtune.memory.parallel import communication_bytes
from cloudtune.memory.program import Job
from cloudtune.memory.reckon import job_of, reckon
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe


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
    proof = evidence_for(recipe, shape, layout, device)
    least = LEAST_BYTES_CPU if device.kind == "cpu" else LEAST_BYTES
    talk = communication_bytes(layout.data_parallel) if device.kind == "cuda" else 0
    # the margin is a fraction of the peak, so at the edge it is that fraction of the card
    margin = max(least, device.total_bytes - int(device.total_bytes / (1 + proof.bar)))
    capacity = device.total_bytes - device.context_bytes - talk - margin
    return judge(job, capacity, margin=margin)


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
    tape = reckon(job).tape
    return replay(tape, expandable=job.behaviour.allocator == "expandable", capacity=capacity).failed_at < 0


def longest_sequence(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, most: int = 1 << 20) -> int:
    """The largest max_length that fits, in tokens; 0 when not even one token does. Exact: one more does not fit.

    Never above the positions that the model has, nor above ``most``.
    """

    def possible(length: int) -> Verdict:
        data = recipe.data.model_copy(update={"max_length": length})
        return fits(recipe.model_copy(update={"data": data}), shape, layout, device)

    return _largest(possible, min(most, shape.max_positions or most))


def biggest_micro_batch(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device, *, most: int = 4096) -> int:
    """The largest micro batch that fits, in sequences; 0 when not even one does. Exact: one more does not fit."""
    return _largest(lambda size: fits(recipe, shape, layout.model_copy(update={"micro_batch_size": size}), device), most)


def _largest(possible: Callable[[int], Verdict], most: int) -> int:
    """The largest number up to ``most`` that is possible: the next number is not, unless it is above ``most``.

    Memory is nearly a straight line in both questions, so the next try is where the line through the two ends of the
    bracket meets the capacity; every third try halves the bracket, so that a bent line cannot make it slow.
    """
    first = possible(1)
    if not first.fits:
        return 0
    low, high = (1, first), _first_beyond(possible, most)
    if high is None:
        return most
    for attempt in range(1, most.bit_length() * 4):
        if high[0] - low[0] <= 1:
            break
        at = (low[0] + high[0]) // 2 if attempt % 3 == 0 else _meeting(low, high)
        found = possible(at)
        low, high = ((at, found), high) if found.fits else (low, (at, found))
    return low[0]


def _first_beyond(possible: Callable[[int], Verdict], most: int) -> tuple[int, Verdict] | None:
    """A number that is not possible, by steps of four; None when ``most`` is."""
    number = 1
    while number < most:
        number = min(number * 4, most)
        found = possible(number)
        if not found.fits:
            return number, found
    return None


def _meeting(low: tuple[int, Verdict], high: tuple[int, Verdict]) -> int:
    """Between the ends, where the line through what they need meets the capacity."""
    (left, fit), (right, too_much) = low, high
    rise = too_much.upper - fit.upper
    share = (fit.capacity - fit.upper) / rise if rise > 0 else 0.5
    return min(right - 1, max(left + 1, left + int((right - left) * min(1.0, max(0.0, share)))))
