"""A replay of torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp, torch 2.6 to 2.13). Pure, no torch.

Rules that it follows:
* a request is rounded up to 512 bytes; up to 1 MiB comes from the small pool, more from the large pool;
* best fit: the smallest free block that is large enough, the lowest address among equals; cudaMalloc hands out falling addresses,
  so of equal blocks in two segments the one in the younger segment goes first;
* a new segment is 2 MiB (small pool), 20 MiB (requests below 10 MiB), else the request rounded up to 2 MiB;
* a block is split when 512 bytes (small) or more than 1 MiB (large) would be left; otherwise all of it counts as allocated;
* neighbouring free blocks of a segment are merged;
* expandable segments: one address range per pool, mapped in pages of 2 or 20 MiB at its end, always split;
* with a capacity: when a new segment does not fit, all wholly free segments are returned, then it is tried once more.

Inside, sizes and addresses are counted in units of 512 bytes. A replay is most of an estimate's time, so ``alloc`` and
``free`` are written out in one piece each: no helper is called where nothing has to grow.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from cloudtune.memory.tape import Tape
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
    """A piece of a segment; ``before`` and ``after`` are its neighbours in it. ``key`` is its place among the free blocks."""

    __slots__ = ("address", "after", "before", "free", "key", "pool", "size")

    def __init__(self, address: int, size: int, pool: Pool) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.free = True
        self.key = 0
        self.before: Block | None = None
        self.after: Block | None = None


class Pool:
    """Free blocks by size then address: ``keys`` and the ``blocks`` they belong to, in the same order.

    ``spare`` are objects of merged blocks, to be used again. An expandable range ends in free memory from ``end`` to
    ``mapped``, which is no block; ``last`` is the block before it. That end counts as endless: any block that fits goes first.
    """

    __slots__ = ("blocks", "end", "keys", "last", "least_rest", "mapped", "page", "small", "spare")

    def __init__(self, *, small: bool, expandable: bool) -> None:
        self.small = small
        self.keys: list[int] = []
        self.blocks: list[Block] = []
        self.spare: list[Block] = []
        self.page = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.least_rest = 1 if small or expandable else SMALL_REQUEST + 1
        self.end = self.mapped = 0
        self.last: Block | None = None

    def put(self, block: Block) -> None:
        """A block becomes free."""
        block.key = key = block.size << SHIFT | block.address
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.blocks.insert(index, block)

    def take(self, block: Block) -> None:
        """A free block is used, merged or returned."""
        index = bisect_left(self.keys, block.key)
        del self.keys[index]
        del self.blocks[index]


class OutOfMemory(Exception):
    """A request does not fit, even after all free segments were returned."""


class Allocator:
    """Holds segments, hands out blocks; all numbers in units of 512 bytes. ``capacity`` limits what may be reserved."""

    __slots__ = ("allocated", "capacity", "expandable", "large", "next_address", "peak_allocated", "peak_reserved", "reserved", "small")

    def __init__(self, *, expandable: bool = False, capacity_bytes: int | None = None) -> None:
        self.expandable = expandable
        self.capacity = min(MOST, capacity_bytes // UNIT) if capacity_bytes is not None else MOST
        self.small = Pool(small=True, expandable=expandable)
        self.large = Pool(small=False, expandable=expandable)
        self.next_address = HIGHEST
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0

    def alloc(self, request: int) -> Block:
        """A block for ``request`` bytes. Raises OutOfMemory."""
        size = (request + UNIT - 1) // UNIT
        pool = self.small if size <= SMALL_REQUEST else self.large
        keys, blocks = pool.keys, pool.blocks
        index = bisect_left(keys, size << SHIFT)
        if index == len(keys):
            if self.expandable:
                return self._from_end(pool, size)
            self._grow(pool, size)  # its new block is the only one that is large enough
            index = bisect_left(keys, size << SHIFT)
        block = blocks[index]
        rest = block.size - size
        if rest >= pool.least_rest:
            self._split(pool, index, size, rest)
        else:
            del keys[index], blocks[index]
        block.free = False
        self.allocated += block.size
        if self.allocated > self.peak_allocated:  # noqa: PLR1730 - a call of max would be a tenth of the whole replay
            self.peak_allocated = self.allocated
        return block

    def _from_end(self, pool: Pool, size: int) -> Block:
        """The beginning of an expandable range's free end. Raises OutOfMemory."""
        if pool.end + size > pool.mapped:
            self._map(pool, size)
        block = pool.spare.pop() if pool.spare else Block(0, 0, pool)
        block.address, block.size, block.free = pool.end, size, False
        block.before, block.after = pool.last, None
        if pool.last is not None:
            pool.last.after = block
        pool.last = block
        pool.end += size
        self.allocated += size
        if self.allocated > self.peak_allocated:  # noqa: PLR1730 - as above
            self.peak_allocated = self.allocated
        return block

    @staticmethod
    def _split(pool: Pool, index: int, size: int, rest: int) -> None:
        """The free block at ``index`` keeps ``size`` units and is no longer free; what follows them is."""
        keys, blocks = pool.keys, pool.blocks
        block = blocks[index]
        address = block.address + size
        other = pool.spare.pop() if pool.spare else Block(0, 0, pool)
        other.address, other.size, other.free = address, rest, True
        other.before = block
        other.after = after = block.after
        if after is not None:
            after.before = other
        block.after = other
        block.size = size
        other.key = key = rest << SHIFT | address
        place = bisect_left(keys, key, 0, index)
        if place == index:
            keys[index], blocks[index] = key, other
        else:
            del keys[index], blocks[index]
            keys.insert(place, key)
            blocks.insert(place, other)

    def free(self, block: Block) -> None:
        """Give a block back and merge it with free neighbours."""
        pool = block.pool
        keys, blocks = pool.keys, pool.blocks
        self.allocated -= block.size
        before, after = block.before, block.after
        if after is not None and after.free:
            index = bisect_left(keys, after.key)
            del keys[index], blocks[index]
            block.size += after.size
            block.after = beyond = after.after
            if beyond is not None:
                beyond.before = block
            pool.spare.append(after)
        if before is not None and before.free:
            index = bisect_left(keys, before.key)
            del keys[index], blocks[index]
            before.size += block.size
            before.after = after = block.after
            if after is not None:
                after.before = before
            pool.spare.append(block)
            block = before
        if block.after is None and self.expandable:  # it joins the free end
            pool.end = block.address
            pool.last = before = block.before
            if before is not None:
                before.after = None
            pool.spare.append(block)
            return
        block.free = True
        block.key = key = block.size << SHIFT | block.address
        index = bisect_left(keys, key)
        keys.insert(index, key)
        blocks.insert(index, block)

    def _grow(self, pool: Pool, size: int) -> None:
        """Reserve a segment with room for ``size``. Raises OutOfMemory."""
        segment = SMALL_SEGMENT if pool.small else LARGE_SEGMENT if size < LARGE_REQUEST else -(-size // LARGE_ROUND) * LARGE_ROUND
        self._reserve(segment)
        pool.put(Block(self._address(segment), segment, pool))

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
        for pool in (self.small, self.large):
            if self.expandable:
                self._trim(pool)
                continue
            for block in list(pool.blocks):
                if block.before is None and block.after is None:
                    pool.take(block)
                    self.reserved -= block.size

    def _trim(self, pool: Pool) -> None:
        pages = (pool.mapped - pool.end) // pool.page * pool.page
        pool.mapped -= pages
        self.reserved -= pages

    def reset_peak(self) -> None:
        """Peaks start again from what is held now (torch.cuda.reset_peak_memory_stats)."""
        self.peak_allocated = self.allocated
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
    allocator = Allocator(expandable=expandable, capacity_bytes=capacity)
    blocks: list[Block | None] = []
    commands = sorted(tape.commands)
    end = tape.end if tape.end >= 0 else len(tape.events)
    start, peak = 0, 0
    for stop, words in [*commands, (end, "")]:
        failed, peak = _run(allocator, blocks, tape.events, range(start, stop), peak)
        if failed >= 0:
            return Replay(allocator.peak_allocated * UNIT, allocator.peak_reserved * UNIT, failed, failed)
        for word in words.split():
            if word == "empty_cache":
                allocator.empty_cache()
            else:
                allocator.reset_peak()
                peak = stop - 1
        start = stop
    return Replay(allocator.peak_allocated * UNIT, allocator.peak_reserved * UNIT, peak, -1)


def _run(allocator: Allocator, blocks: list[Block | None], events: list[int], positions: range, peak: int) -> tuple[int, int]:
    """Replay some events; (position of a failure or -1, position of the highest allocation so far)."""
    alloc, free, append = allocator.alloc, allocator.free, blocks.append
    highest = allocator.peak_allocated
    for position in positions:
        event = events[position]
        if event < 0:
            block = blocks[~event]
            assert block is not None  # noqa: S101
            blocks[~event] = None
            free(block)
            continue
        try:
            append(alloc(event))
        except OutOfMemory:
            return position, peak
        if allocator.allocated > highest:
            highest, peak = allocator.allocated, position
    return -1, peak
