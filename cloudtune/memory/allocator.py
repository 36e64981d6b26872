"""A replay of torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp, torch 2.6 to 2.13). Pure, no torch.

Rules that it follows, in bytes:
* a request is rounded up to 512; up to 1 MiB comes from the small pool, more from the large pool;
* best fit: the smallest free block that is large enough, the lowest address among equals;
* a new segment is 2 MiB (small pool), 20 MiB (requests below 10 MiB), else the request rounded up to 2 MiB;
* a block is split when 512 bytes (small) or more than 1 MiB (large) would be left; otherwise all of it counts as allocated;
* neighbouring free blocks of a segment are merged;
* expandable segments: one address range per pool, mapped in pages of 2 or 20 MiB at its end, always split;
* with a capacity: when a new segment does not fit, all wholly free segments are returned, then it is tried once more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from cloudtune.memory.tape import Tape
from cloudtune.units import MIB

ROUND = 512
SMALL_REQUEST = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
LARGE_REQUEST = 10 * MIB
LARGE_ROUND = 2 * MIB
FAR = 1 << 46  # address ranges of segments never touch


class Block:
    """A piece of a segment; ``before`` and ``after`` are its neighbours in it."""

    __slots__ = ("address", "after", "before", "free", "pool", "size")

    def __init__(self, address: int, size: int, pool: Pool) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.free = True
        self.before: Block | None = None
        self.after: Block | None = None


class Pool:
    """Free blocks by size then address; ``tail`` is the last block of an expandable segment."""

    __slots__ = ("blocks", "order", "page", "small", "tail")

    def __init__(self, *, small: bool) -> None:
        self.small = small
        self.order: list[tuple[int, int]] = []
        self.blocks: dict[int, Block] = {}
        self.page = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.tail: Block | None = None

    def put(self, block: Block) -> None:
        insort(self.order, (block.size, block.address))
        self.blocks[block.address] = block

    def take(self, block: Block) -> None:
        del self.order[bisect_left(self.order, (block.size, block.address))]
        del self.blocks[block.address]


class OutOfMemory(Exception):
    """A request does not fit, even after all free segments were returned."""


class Allocator:
    """Holds segments, hands out blocks. ``capacity`` in bytes limits what may be reserved; None = no limit."""

    __slots__ = ("allocated", "capacity", "expandable", "large", "next_address", "peak_allocated", "peak_reserved", "reserved", "small")

    def __init__(self, *, expandable: bool = False, capacity: int | None = None) -> None:
        self.expandable = expandable
        self.capacity = capacity
        self.small = Pool(small=True)
        self.large = Pool(small=False)
        self.next_address = 0
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0

    def alloc(self, request: int) -> Block:
        """A block for ``request`` bytes. Raises OutOfMemory."""
        size = -(-request // ROUND) * ROUND
        pool = self.small if size <= SMALL_REQUEST else self.large
        block = self._find(pool, size)
        if block is None:
            block = self._grow(pool, size)
        rest = block.size - size
        if rest >= ROUND and (pool.small or self.expandable or rest > SMALL_REQUEST):
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return block

    def _find(self, pool: Pool, size: int) -> Block | None:
        """The best fit among the free blocks, taken out of the pool."""
        order = pool.order
        index = bisect_left(order, (size, 0))
        if index == len(order):
            return None
        block = pool.blocks[order[index][1]]
        if block is pool.tail and index + 1 < len(order):
            # the block at the growing end counts as endless: any other block that fits goes first
            index += 1
            block = pool.blocks[order[index][1]]
        del order[index]
        del pool.blocks[block.address]
        return block

    def _split(self, block: Block, size: int) -> None:
        pool = block.pool
        rest = Block(block.address + size, block.size - size, pool)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after = rest
        block.size = size
        if pool.tail is block:
            pool.tail = rest
        pool.put(rest)

    def free(self, block: Block) -> None:
        """Give a block back and merge it with free neighbours."""
        pool = block.pool
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            pool.take(before)
            before.size += block.size
            before.after = after
            if after is not None:
                after.before = before
            if pool.tail is block:
                pool.tail = before
            block = before
        if after is not None and after.free:
            pool.take(after)
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
            if pool.tail is after:
                pool.tail = block
        block.free = True
        pool.put(block)

    def _grow(self, pool: Pool, size: int) -> Block:
        if self.expandable:
            return self._expand(pool, size)
        segment = SMALL_SEGMENT if pool.small else LARGE_SEGMENT if size < LARGE_REQUEST else -(-size // LARGE_ROUND) * LARGE_ROUND
        self._reserve(segment)
        block = Block(self._address(), segment, pool)
        return block

    def _address(self) -> int:
        self.next_address += FAR
        return self.next_address

    def _reserve(self, size: int) -> None:
        if self.capacity is not None and self.reserved + size > self.capacity:
            self.empty_cache()
            if self.reserved + size > self.capacity:
                raise OutOfMemory
        self.reserved += size
        if self.reserved > self.peak_reserved:
            self.peak_reserved = self.reserved

    def _expand(self, pool: Pool, size: int) -> Block:
        """Map further pages at the end of the pool's range; a free block there is used first."""
        tail = pool.tail
        have = tail.size if tail is not None and tail.free else 0
        pages = -(-(size - have) // pool.page) * pool.page
        self._reserve(pages)
        tail = pool.tail  # returning free pages may have changed it
        if tail is not None and tail.free:
            if tail.size != have:  # pages were returned in between: map them again
                self._reserve(have - tail.size)
                pages += have - tail.size
            pool.take(tail)
            tail.size += pages
            return tail
        block = Block(tail.address + tail.size if tail is not None else self._address(), pages, pool)
        block.before = tail
        if tail is not None:
            tail.after = block
        pool.tail = block
        return block

    def empty_cache(self) -> None:
        """Return every wholly free segment (native) or the free pages at the growing end (expandable)."""
        for pool in (self.small, self.large):
            if self.expandable:
                self._trim(pool)
                continue
            for _, address in list(pool.order):
                block = pool.blocks[address]
                if block.before is None and block.after is None:
                    pool.take(block)
                    self.reserved -= block.size

    def _trim(self, pool: Pool) -> None:
        tail = pool.tail
        if tail is None or not tail.free:
            return
        pages = tail.size // pool.page * pool.page
        if not pages:
            return
        pool.take(tail)
        tail.size -= pages
        self.reserved -= pages
        if tail.size:
            pool.put(tail)
        else:
            pool.tail = tail.before
            if tail.before is not None:
                tail.before.after = None

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
    sizes: dict[int, int]
    """Live blocks at the peak: id -> bytes that count as allocated."""


def replay(tape: Tape, *, expandable: bool, capacity: int | None = None) -> Replay:
    """Run the whole tape through a fresh allocator; stops where it runs out of memory."""
    allocator = Allocator(expandable=expandable, capacity=capacity)
    blocks: dict[int, Block] = {}
    commands = dict(tape.commands)
    ident, peak_position, highest = -1, 0, 0
    alloc, free = allocator.alloc, allocator.free
    end = tape.end if tape.end >= 0 else len(tape.events)
    for position in range(end):
        if position in commands:
            _obey(allocator, commands[position])
            highest = allocator.peak_allocated
        event = tape.events[position]
        if event < 0:
            free(blocks.pop(~event))
            continue
        ident += 1
        try:
            blocks[ident] = alloc(event)
        except OutOfMemory:
            return Replay(allocator.peak_allocated, allocator.peak_reserved, position, position, {})
        if allocator.allocated > highest:
            highest, peak_position = allocator.allocated, position
    return Replay(allocator.peak_allocated, allocator.peak_reserved, peak_position, -1, {})


def _obey(allocator: Allocator, words: str) -> None:
    for word in words.split():
        if word == "empty_cache":
            allocator.empty_cache()
        else:
            allocator.reset_peak()
