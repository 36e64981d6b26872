"""The allocator's replay keeps torch's rules, whatever is asked of it."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.memory.allocator import GONE, SHIFT, Allocator, Block, replay
from cloudtune.memory.tape import Row, Tape
from cloudtune.units import MIB

UNIT = 512


def tape_of(*events: int) -> Tape:
    tape = Tape()
    for event in events:
        tape.events.append(event)
        if event > 0:
            tape.kinds.append("activations")
            tape.names.append("x")
    return tape


@pytest.mark.parametrize(
    ("request_bytes", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # no more than 1 MiB would be left: the block is not split
    ],
)
def test_one_request_is_rounded_as_in_torch(request_bytes: int, allocated: int, reserved: int) -> None:
    result = replay(tape_of(request_bytes), expandable=False)
    assert (result.peak_allocated, result.peak_reserved) == (allocated, reserved)


def test_expandable_segments_map_pages_and_always_split() -> None:
    result = replay(tape_of(11 * MIB + 512, 30 * MIB), expandable=True)
    assert result.peak_allocated == 41 * MIB + 512
    assert result.peak_reserved == 60 * MIB


def test_a_freed_block_is_used_again_and_neighbours_merge() -> None:
    result = replay(tape_of(4 * MIB, 4 * MIB, 4 * MIB, ~0, ~1, 8 * MIB), expandable=False)
    assert result.peak_reserved == 20 * MIB


def test_of_equal_blocks_the_one_in_the_younger_segment_goes_first() -> None:
    """cudaMalloc hands out falling addresses; the small request splits the second segment, so only the first is whole again."""
    events = (12 * MIB, 12 * MIB, ~0, ~1, 4 * MIB, ~2, 12 * MIB, 4 * MIB)
    allocator = Allocator()
    addresses = []
    for event in events:
        allocator.play([event])
        if event > 0:
            addresses.append(allocator.held[-1].address)
    first, second, small, large = addresses[:4]
    assert second < first
    assert small == second
    assert large == second
    assert addresses[4] == first


def test_free_segments_are_returned_before_memory_runs_out() -> None:
    events = (12 * MIB, ~0, 16 * MIB)
    assert replay(tape_of(*events), expandable=False, capacity=16 * MIB).failed_at == -1
    assert replay(tape_of(12 * MIB, 16 * MIB), expandable=False, capacity=16 * MIB).failed_at == 1


@pytest.mark.parametrize("expandable", [False, True])
def test_what_one_stream_has_freed_is_of_no_use_to_another(expandable: bool) -> None:
    tape = tape_of(20 * MIB, ~0, 20 * MIB)
    tape.names[1] = "all-gather buffer"
    assert replay(tape, expandable=expandable).peak_reserved == 20 * MIB
    tape.streams = {"all-gather buffer": 1}
    assert replay(tape, expandable=expandable).peak_reserved == 40 * MIB
    # where memory is short, torch returns what any stream has cached, whichever asks
    assert replay(tape, expandable=expandable, capacity=20 * MIB).failed_at == -1
    tape.names.reverse()
    assert replay(tape, expandable=expandable, capacity=20 * MIB).failed_at == -1


def test_commands_empty_the_cache_and_reset_the_peak() -> None:
    tape = tape_of(32 * MIB, ~0, 2 * MIB)
    tape.commands = [(2, "empty_cache reset_peak")]
    result = replay(tape, expandable=False)
    assert result.peak_reserved == 20 * MIB
    assert result.peak_allocated == 2 * MIB


REQUESTS = st.lists(st.tuples(st.booleans(), st.integers(1, 40 * MIB)), min_size=1, max_size=60)


@given(REQUESTS, st.booleans())
def test_blocks_never_overlap_and_sums_are_right(steps: list[tuple[bool, int]], expandable: bool) -> None:
    allocator = Allocator(expandable=expandable)
    live: list[int] = []
    for is_free, size in steps:
        if is_free and live:
            allocator.play([~live.pop(size % len(live))])
        else:
            allocator.play([size])
            live.append(len(allocator.held) - 1)
        blocks = [allocator.held[ident] for ident in live]
        assert allocator.allocated == sum(block.size for block in blocks) <= allocator.reserved
        spans = sorted((block.address, block.address + block.size) for block in blocks)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        for pool in chain.from_iterable(allocator.pools):
            assert pool.keys == sorted(pool.keys) == [block.size << SHIFT | block.address for block in pool.blocks]
    assert allocator.play([~ident for ident in live]) == -1
    allocator.empty_cache()
    assert allocator.allocated == 0
    assert allocator.reserved == 0


@given(REQUESTS, st.booleans())
def test_a_capacity_is_never_exceeded(steps: list[tuple[bool, int]], expandable: bool) -> None:
    allocator = Allocator(expandable=expandable, capacity_bytes=64 * MIB)
    live: list[int] = []
    for is_free, size in steps:
        if is_free and live:
            allocator.play([~live.pop()])
        elif allocator.play([size]) < 0:
            live.append(len(allocator.held) - 1)
        else:
            break
    assert allocator.peak_reserved * UNIT <= 64 * MIB


def like_pieces(steps: list[tuple[bool, int]], count: int) -> Tape:
    """Memory in use and free, ``count`` times a piece that frees only what it has made, some of that freed, then more asked for."""
    tape = tape_of(3 * MIB, 700_000, 21 * MIB, 900_000, ~1, ~0)
    start = len(tape.events)
    kept: list[int] = []
    for _ in range(count):
        made: list[int] = []
        for is_free, size in steps:
            if is_free and made:
                tape.events.append(~made.pop(size % len(made)))
            else:
                made.append(tape.alloc(size, "a" if size % 2 else "b"))
        kept += made
    tape.rows = [Row(start, len(steps), count)]
    tape.events += [~ident for ident in kept[1::2]]
    for size in (2 * MIB, 30 * MIB, 4 * MIB, 400_000, 64 * MIB):
        tape.alloc(size, "a")
    return tape


@given(REQUESTS, st.integers(1, 9), st.booleans(), st.booleans(), st.sampled_from([None, 0.5, 0.9, 1.0]))
def test_a_row_of_like_pieces_is_what_playing_each_of_them_is(
    steps: list[tuple[bool, int]], count: int, expandable: bool, has_streams: bool, share: float | None
) -> None:
    tape = like_pieces(steps, count)
    tape.streams = {"b": 1} if has_streams else {}
    each = replace(tape, rows=[])
    whole = replay(each, expandable=expandable)
    assert replay(tape, expandable=expandable) == whole
    if share is not None:
        capacity = int(whole.peak_reserved * share)
        assert replay(tape, expandable=expandable, capacity=capacity) == replay(each, expandable=expandable, capacity=capacity)


PIECES = {
    "one kept": [(False, 30 * MIB), (False, 4 * MIB), (True, 0)],
    "two kept, the later one before the other": [(False, 6 * MIB), (False, 30 * MIB), (True, 0), (False, 6 * MIB)],
    "a segment kept": [(False, 30 * MIB)],
    "more borrowed than kept": [(False, 38 * MIB), (False, 39 * MIB - 1), (True, 0), (True, 0), (False, 2 * MIB), (False, 3 * MIB - 1)],
    "kept in two streams": [(False, 5 * MIB), (False, 5 * MIB - 1)],
}


@pytest.mark.parametrize("steps", PIECES.values(), ids=list(PIECES))
@pytest.mark.parametrize("expandable", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 90])
def test_pieces_that_find_and_leave_the_same_free_blocks_are_not_looked_at(
    steps: list[tuple[bool, int]], count: int, expandable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = like_pieces(steps, count)
    players: list[Allocator] = []
    played = []
    play = Allocator.play

    def watched(self: Allocator, events: list[int], start: int, stop: int, streams: list[int] | None) -> int:
        players.append(self)
        played.append(tape.rows != [] and start in range(tape.rows[0].start, tape.rows[0].stop))
        return play(self, events, start, stop, streams)

    monkeypatch.setattr(Allocator, "play", watched)
    by_row = replay(tape, expandable=expandable)
    assert sum(played) <= 4 if expandable else sum(played) == count
    tape.rows = []
    assert replay(tape, expandable=expandable) == by_row
    left, right = ([block.address for block in one.held if block is not GONE] for one in (players[0], players[-1]))
    assert left == right


def test_a_replay_leaves_nothing_to_the_garbage_collector() -> None:
    """Its cyclic collection would cost an estimate two milliseconds."""
    tape = like_pieces([(False, 4 * MIB)] * 9 + [(True, 1), (True, 2), (True, 1), (True, 5), (True, 0)], 30)
    gc.collect()
    before = blocks_alive()
    replay(tape, expandable=True)
    assert blocks_alive() <= before


@pytest.mark.parametrize("count", [6, 9, 13])
@pytest.mark.parametrize("steps", PIECES.values(), ids=list(PIECES))
def test_a_row_that_meets_the_capacity_anywhere(steps: list[tuple[bool, int]], count: int) -> None:
    tape = like_pieces(steps, count)
    tape.streams = {"a": 1}
    each = replace(tape, rows=[])
    for capacity in range(20 * MIB, replay(each, expandable=True).peak_reserved + MIB, 2 * MIB):
        assert replay(tape, expandable=True, capacity=capacity) == replay(each, expandable=True, capacity=capacity), capacity


def test_memory_runs_out_before_a_row_and_in_one_that_no_device_could_hold() -> None:
    tape = like_pieces([(False, 4 * MIB)], 9)
    assert replay(tape, expandable=True, capacity=22 * MIB).failed_at == 2, "a page of either pool, and what the row asks for would fit"
    vast = Tape()
    for _ in range(40):
        vast.alloc(2**45, "a")
    each = replay(vast, expandable=True)
    assert each.failed_at == 15
    vast.rows = [Row(0, 1, 40)]
    assert replay(vast, expandable=True) == each


def blocks_alive() -> int:
    return sum(type(each) is Block for each in gc.get_objects())  # not isinstance, which asks lazy modules for their class
