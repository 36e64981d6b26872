"""Which sequences share a packed one. Pure arithmetic on lengths; the isolation of neighbours is made in ``batches``."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

WINDOW = 20_000
"""Sequences looked at together: large enough to fill bins to 99 %, small enough to keep the data's order mixed."""


def pack(lengths: Sequence[int], capacity: int, *, window: int = WINDOW) -> list[list[int]]:
    """Indices of ``lengths`` in groups whose sum is at most ``capacity``; the same input gives the same groups.

    Best fit by falling length within each window: a sequence goes where it leaves the least room. No length may
    exceed ``capacity``.
    """
    groups: list[list[int]] = []
    for start in range(0, len(lengths), window):
        part = range(start, min(start + window, len(lengths)))
        groups.extend(_pack_window(lengths, capacity, sorted(part, key=lambda index: (-lengths[index], index))))
    return groups


def _pack_window(lengths: Sequence[int], capacity: int, order: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, number of the group), sorted
    for index in order:
        place = bisect_left(rooms, (lengths[index], -1))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = capacity, len(groups)
            groups.append([])
        groups[number].append(index)
        insort(rooms, (room - lengths[index], number))
    return groups
