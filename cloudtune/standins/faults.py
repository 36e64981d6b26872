"""What goes wrong in a stand-in cloud, and when: a list of faults per operation that its server asks before it answers.

Knows no cloud: a server says how each kind looks in its own words and codes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "throttle",  # too many calls
    "error500",  # the service failed on its side
    "error503",  # the service is not available
    "lost_reply",  # the call was carried out, the connection dropped before the answer
    "dropped",  # the connection dropped before the call was carried out
    "silent",  # no answer at all until the caller gives up
    "expired",  # the login has ended
    "access_denied",  # the login may not do this
    "malformed",  # an answer that nobody can read
]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERY = "*"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. ``detail`` is for the server, such as the name of a permission."""

    kind: Kind
    detail: str = ""


@dataclass
class _Planned:
    operation: str
    fault: Fault
    times: int | None
    after: int


class FaultPlan:
    """Faults to come, in the order in which they were added, and a count of every call. Thread-safe."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """Operation → how often it was called, faulty calls included; the stand-in's own calls are not counted."""
        self.given: list[tuple[str, Fault]] = []
        """What went wrong so far."""
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()

    def add(self, operation: str, kind: Kind, times: int | None = 1, *, after: int = 0, detail: str = "") -> None:
        """Let ``operation`` (``*`` = any) fail ``times`` times (None = until ``clear``), once it was called ``after`` times more."""
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind}; there are {', '.join(KINDS)}")
        with self._lock:
            self._planned.append(_Planned(operation, Fault(kind, detail), times, after))

    def take(self, operation: str) -> Fault | None:
        """Count a call and say what goes wrong with it; None = nothing."""
        with self._lock:
            self.calls[operation] += 1
            for planned in self._planned:
                if planned.operation not in (operation, EVERY):
                    continue
                if planned.after > 0:
                    planned.after -= 1
                    continue
                if planned.times is not None:
                    planned.times -= 1
                    if planned.times <= 0:
                        self._planned.remove(planned)
                self.given.append((operation, planned.fault))
                return planned.fault
        return None

    def clear(self, operation: str | None = None) -> None:
        """Forget the faults to come, of one operation or all."""
        with self._lock:
            self._planned = [one for one in self._planned if operation is not None and one.operation != operation]

    @contextmanager
    def during(self, operation: str, kind: Kind, *, detail: str = "") -> Iterator[None]:
        """Let ``operation`` fail within the block."""
        self.add(operation, kind, None, detail=detail)
        try:
            yield
        finally:
            self.clear(operation)
