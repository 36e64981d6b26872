"""A replay of torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp, torch 2.6 to 2.13). Pure, no torch.

Rules that it follows:
* a request is rounded up to 512 bytes; up to 1 MiB comes from the small pool, more from the large pool;
* best fit: the smallest free block that is large enough, the lowest address among equals; cudaMalloc hands out falling addresses,
  so of equal blocks in two segments the one in the younger segment goes first;
* a new segment is 2 MiB (small pool), 20 MiB (requests below 10 MiB), else the request rounded up to 2 MiB;
* a block is split when 512 bytes (small) or more than 1 MiB (large) would be left; otherwise all of it counts as allocated;
* neighbouring free blocks of a segment are merged;
* expandable segments: one address range per pool, mapped in pages of 2 or 20 MiB at its end, always split;
* every CUDA stream has pools of its own: what one has freed is of no use to another;
* with a capacity: when a new segment does not fit, all wholly free segments are returned, then it is tried once more.

Inside, sizes and addresses are counted in units of 512 bytes. A replay is most of an estimate's time, so allocating is written
out within the loop over the events, and a block that grows or shrinks keeps its place among the free ones where it can.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

from cloudtune.memory.tape import Row, Tape
from cloudtune.units import MIB

UNIT = 512
MIB_UNITS = MIB // UNIT
SMALL_REQUEST = MIB_UNITS
SMALL_SEGMENT = 2 * MIB_UNITS
LARGE_SEGMENT = 20 * MIB_UNITS
LARGE_REQUEST = 10 * MIB_UNITS
LARGE_ROUND = 2 * MIB_UNITS
FAR = 1 << 30  # of an expandable pool's range: more than any device has
SHIFT = 44  # a free block's key is its size, then its address, in one number
HIGHEST = 1 << (SHIFT - 1)  # where the first segment ends
MOST = HIGHEST >> 3  # half a pebibyte: what asks for more asks in vain


class Block:
    """A piece of a segment; ``before`` and ``after`` are its neighbours in it, WALL at its ends.

    ``key``: its place among the free blocks, or 0.
    """

    __slots__ = ("address", "after", "before", "key", "pool", "size")
    address: int
    after: Block
    before: Block
    key: int
    pool: Pool
    size: int


WALL = Block()  # where there is no neighbour, and nothing to merge with
WALL.key = WALL.size = 0
GONE = Block()  # in the place of every block that was given back


class Pool:
    """Free blocks by size then address: ``keys`` and the ``blocks`` they belong to, in the same order.

    An expandable range ends in free memory from ``end`` to ``mapped``, which is no block; ``last`` is the block before it.
    That end counts as endless: any block that fits goes first.
    """

    __slots__ = ("blocks", "end", "keys", "last", "least_rest", "mapped", "page", "small")

    def __init__(self, *, small: bool, expandable: bool) -> None:
        self.small = small
        self.keys: list[int] = []
        self.blocks: list[Block] = []
        self.page = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.least_rest = 1 if small or expandable else SMALL_REQUEST + 1
        self.end = self.mapped = 0
        self.last = WALL

    def segment(self, address: int, size: int) -> Block:
        """A new segment of ``size`` units, all of it free."""
        block = Block()
        block.address, block.size, block.pool, block.before, block.after = address, size, self, WALL, WALL
        block.key = size << SHIFT | address
        index = bisect_left(self.keys, block.key)
        self.keys.insert(index, block.key)
        self.blocks.insert(index, block)
        return block

    def take(self, index: int) -> Block:
        """The free block at ``index``, all of it, which is free no more."""
        block = self.blocks[index]
        del self.keys[index], self.blocks[index]
        block.key = 0
        return block

    def join_end(self, block: Block) -> None:
        """``block``, the last one of an expandable range, becomes part of its free end."""
        self.end = block.address
        self.last = block.before
        self.last.after = WALL

    def move(self, index: int, block: Block) -> None:
        """The free block at ``index`` has changed its size or address."""
        del self.keys[index], self.blocks[index]
        index = bisect_left(self.keys, block.key)
        self.keys.insert(index, block.key)
        self.blocks.insert(index, block)


class _Sized(dict[int, tuple[int, int, Pool]]):
    """A request in bytes → its size in units, the least key of a block that it fits in, and its pool."""

    def __init__(self, small: Pool, large: Pool) -> None:
        self.small, self.large = small, large

    def __missing__(self, request: int) -> tuple[int, int, Pool]:
        size = (request + UNIT - 1) // UNIT
        self[request] = size, size << SHIFT, self.large if size > SMALL_REQUEST else self.small
        return self[request]


class OutOfMemory(Exception):
    """A request does not fit, even after all free segments were returned."""


class Allocator:
    """Holds segments, hands out blocks; all numbers in units of 512 bytes. ``capacity`` limits what may be reserved.

    ``held``: the block of each request, in order; GONE once it is free. ``peak_position``: of the event that brought the most.
    ``sized``: for each stream, what requests look for.
    """

    __slots__ = (
        "allocated",
        "capacity",
        "expandable",
        "held",
        "next_address",
        "peak_allocated",
        "peak_position",
        "peak_reserved",
        "pools",
        "reserved",
        "sized",
    )

    def __init__(self, *, expandable: bool = False, capacity_bytes: int | None = None, streams: int = 1) -> None:
        self.expandable = expandable
        self.capacity = min(MOST, capacity_bytes // UNIT) if capacity_bytes is not None else MOST
        self.pools = [(Pool(small=True, expandable=expandable), Pool(small=False, expandable=expandable)) for _ in range(streams)]
        self.held: list[Block] = []
        self.sized = [_Sized(*pair) for pair in self.pools]
        self.next_address = HIGHEST
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = self.peak_position = 0

    def play(self, events: list[int], start: int = 0, stop: int | None = None, streams: list[int] | None = None) -> int:
        """Do what a tape's ``events`` from ``start`` to before ``stop`` say; -1, or the position of a request that does not fit.

        ``streams``: the stream of each request; all in the first one without it.
        """
        held, sized, position = self.held, self.sized[0], start
        allocated, highest = self.allocated, self.peak_allocated
        free, hold, more = self.free, held.append, self._from_end if self.expandable else self._segment
        try:
            for position, event in enumerate(events[start:stop], start):
                if event < 0:
                    block = held[~event]
                    held[~event] = GONE  # so that its memory is used again
                    allocated -= block.size
                    free(block)
                    continue
                if streams is not None:
                    sized = self.sized[streams[len(held)]]
                size, least, pool = sized[event]
                keys = pool.keys
                index = bisect_left(keys, least)
                if index < len(keys):
                    after = pool.blocks[index]
                else:
                    after = more(pool, size)
                    index = len(keys) - 1
                rest = after.size - size
                if rest >= pool.least_rest:  # its beginning; the rest stays a free block
                    block = Block()
                    block.address = address = after.address
                    block.size = size
                    block.key = 0
                    block.pool = pool
                    block.before = before = after.before
                    block.after = after
                    after.before = before.after = block
                    after.address = address = address + size
                    after.size = rest
                    after.key = key = rest << SHIFT | address
                    if not index or keys[index - 1] < key:
                        keys[index] = key
                    else:
                        pool.move(index, after)
                else:
                    block = pool.take(index) if after.key else after
                    size = block.size
                hold(block)
                allocated += size
                if allocated > highest:
                    highest, self.peak_position = allocated, position
            position = -1
        except OutOfMemory:
            pass
        self.allocated, self.peak_allocated = allocated, highest
        return position

    def play_row(self, events: list[int], row: Row, streams: list[int] | None = None) -> int:
        """``play`` for a row of like pieces. Most are not looked at, where each does what the one before it did.

        A piece that frees only its own and leaves the free blocks as it found them has what it keeps at the beginning of the
        ranges' ends, and the next one finds the same again, but for how far away those are. Not so where the capacity may be
        met by one of them, or where segments are not expandable, so that what is kept needs new ones.
        """
        at = row.start
        while at < row.stop:
            before = self._free_blocks()
            failed = self.play(events, at, at + row.length, streams)
            if failed >= 0:
                return failed
            at += row.length
            left = (row.stop - at) // row.length
            if left > 1 and self.expandable and self._free_blocks() == before:
                made = sum(event > 0 for event in events[at : at + row.length])
                kept = self.held[len(self.held) - made :]  # GONE for what is free again
                if self._has_room(sum(block.size for block in kept if block is not GONE) * left):
                    self._repeat(kept, left - 1)  # the last one is played, because it brings the highest peak
                    at = row.stop - row.length
        return -1

    def _free_blocks(self) -> list[list[int]]:
        return [list(pool.keys) for pool in chain.from_iterable(self.pools)]

    def _has_room(self, size: int) -> bool:
        """Whether the ranges can grow by ``size`` in all, and by a page each, without meeting the capacity."""
        pages = len(self.pools) * (SMALL_SEGMENT + LARGE_SEGMENT)
        return self.reserved + size + pages <= self.capacity

    def _repeat(self, kept: list[Block], count: int) -> None:
        """``count`` times the blocks of a piece, GONE or at the beginning of the ranges' ends, one behind the other."""
        places = [place for place, block in enumerate(kept) if block is not GONE]
        places.sort(key=lambda place: kept[place].address)
        for _ in range(count):
            base = len(self.held)
            self.held += [GONE] * len(kept)
            for place in places:
                block = kept[place]
                self.held[base + place] = self._from_end(block.pool, block.size)
                self.allocated += block.size

    def _segment(self, pool: Pool, size: int) -> Block:
        """A new segment with room for ``size``, all of it free. Raises OutOfMemory."""
        segment = SMALL_SEGMENT if pool.small else LARGE_SEGMENT if size < LARGE_REQUEST else -(-size // LARGE_ROUND) * LARGE_ROUND
        self._reserve(segment)
        return pool.segment(self._address(segment), segment)

    def _from_end(self, pool: Pool, size: int) -> Block:
        """The beginning of an expandable range's free end. Raises OutOfMemory."""
        if pool.end + size > pool.mapped:
            self._map(pool, size)
        block = Block()
        block.address = pool.end
        block.size, block.key, block.pool = size, 0, pool
        block.before, block.after = pool.last, WALL
        pool.last.after = pool.last = block
        pool.end += size
        return block

    def free(self, block: Block) -> None:
        """Give a block back and merge it with free neighbours."""
        pool = block.pool
        keys = pool.keys
        before = block.before
        after = block.after
        if before.key:  # the free block before it grows
            if after.key:  # by the free block after it, too
                pool.take(bisect_left(keys, after.key))
                before.size += after.size
                after.before = WALL  # no ring of two that are gone
                after = after.after
            index = bisect_left(keys, before.key)
            before.size += block.size
            before.after = after
            after.before = block = before
        elif after.key:  # the free block after it grows
            index = bisect_left(keys, after.key)
            after.address = block.address
            after.size += block.size
            after.before = before
            before.after = block = after
            after = after.after
        elif after is WALL and self.expandable:
            pool.join_end(block)
            return
        else:
            block.key = key = block.size << SHIFT | block.address
            index = bisect_left(keys, key)
            keys.insert(index, key)
            pool.blocks.insert(index, block)
            return
        if after is WALL and self.expandable:
            pool.join_end(pool.take(index))
            return
        block.key = key = block.size << SHIFT | block.address
        if index + 1 == len(keys) or key < keys[index + 1]:
            keys[index] = key
        else:
            pool.move(index, block)

    def _address(self, size: int) -> int:
        """Where the next segment begins: below all others."""
        self.next_address -= size
        return self.next_address

    def _reserve(self, size: int) -> None:
        if self.reserved + size > self.capacity:
            self.empty_cache()
            if self.reserved + size > self.capacity:
                raise OutOfMemory
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def _map(self, pool: Pool, size: int) -> None:
        """Map further pages at the end of the pool's range, until ``size`` units are free there. Raises OutOfMemory."""
        if not pool.mapped:
            pool.end = pool.mapped = self._address(FAR)
        before = pool.mapped
        pages = -(-(pool.end + size - before) // pool.page) * pool.page
        self._reserve(pages)
        returned = before - pool.mapped  # to make room; map them again
        if returned:
            self._reserve(returned)
        pool.mapped += pages + returned

    def empty_cache(self) -> None:
        """Return every wholly free segment (native) or the free pages at the growing end (expandable)."""
        for pool in chain.from_iterable(self.pools):
            if self.expandable:
                self._trim(pool)
                continue
            kept = [block for block in pool.blocks if block.before is not WALL or block.after is not WALL]
            self.reserved -= sum(block.size for block in pool.blocks) - sum(block.size for block in kept)
            pool.blocks[:], pool.keys[:] = kept, [block.key for block in kept]

    def _trim(self, pool: Pool) -> None:
        pages = (pool.mapped - pool.end) // pool.page * pool.page
        pool.mapped -= pages
        self.reserved -= pages

    def let_go(self) -> None:
        """Undo the links, so that blocks go at once and not with the next cyclic garbage collection.

        Those between neighbours in an expandable range, which is where speed counts; others wait for the collector.
        """
        for pool in chain.from_iterable(self.pools):
            pool.blocks.clear()
            block, pool.last = pool.last, WALL
            while block is not WALL:
                block.after = WALL
                block.before, block = WALL, block.before
        WALL.before = WALL.after = WALL  # which has been told of neighbours like any other

    def obey(self, commands: str, position: int) -> None:
        """Do what a tape's ``commands`` say; ``position``: of the event before them."""
        for word in commands.split():
            if word == "empty_cache":
                self.empty_cache()
            else:
                self.reset_peak(position)

    def reset_peak(self, position: int) -> None:
        """After ``position`` peaks start again from what is held now (torch.cuda.reset_peak_memory_stats)."""
        self.peak_allocated, self.peak_position = self.allocated, position
        self.peak_reserved = self.reserved


@dataclass(frozen=True, slots=True)
class Replay:
    """What the allocator did with a tape. Bytes; positions count the tape's events; ``failed_at`` is -1 when all fits."""

    peak_allocated: int
    peak_reserved: int
    peak_position: int
    failed_at: int


def replay(tape: Tape, *, expandable: bool, capacity: int | None = None) -> Replay:
    """Run the whole tape through a fresh allocator; stops where it runs out of ``capacity`` bytes."""
    allocator = Allocator(expandable=expandable, capacity_bytes=capacity, streams=max(tape.streams.values(), default=0) + 1)
    try:
        return _play_all(tape, allocator)
    finally:
        allocator.let_go()


def _play_all(tape: Tape, allocator: Allocator) -> Replay:
    streams = [tape.streams.get(name, 0) for name in tape.names] if tape.streams else None
    end = tape.end if tape.end >= 0 else len(tape.events)
    start = 0
    rows: list[tuple[int, str | Row]] = [(row.start, row) for row in tape.rows]
    for position, what in sorted([*tape.commands, *rows, (end, "")], key=itemgetter(0)):
        failed = allocator.play(tape.events, start, position, streams)
        start = position
        if isinstance(what, Row):
            failed = failed if failed >= 0 else allocator.play_row(tape.events, what, streams)
            start = what.stop
        elif failed < 0:
            allocator.obey(what, position - 1)
        if failed >= 0:
            return Replay(allocator.peak_allocated * UNIT, allocator.peak_reserved * UNIT, failed, failed)
    return Replay(allocator.peak_allocated * UNIT, allocator.peak_reserved * UNIT, allocator.peak_position, -1)
