"""How much slower this machine is right now than a calm one: bounds on processor time are multiplied by it.

Two busy neighbours on one core's two threads double the processor time of the same work, which says nothing of our code.
"""

from __future__ import annotations

import time

CALM_SECONDS = 0.016  # of the work below on the machine that the bounds were set on, 2 cores at rest, 2026-11-25


def slowness() -> float:
    """At least 1. The slowest of three samples: the neighbour that slowed one of them slows the work under test too."""
    return max(1.0, max(_sample() for _ in range(3)) / CALM_SECONDS)


def _sample() -> float:
    began = time.process_time()
    table: dict[str, int] = {}
    for number in range(60_000):
        key = f"k{number % 997}"
        table[key] = table.get(key, 0) + number
    return time.process_time() - began
