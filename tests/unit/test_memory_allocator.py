"""The allocator's replay keeps torch's rules, whatever is asked of it."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.memory.allocator import SHIFT, Allocator, replay
from cloudtune.memory.tape import Tape
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
