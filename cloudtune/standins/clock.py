"""The clock of a stand-in cloud: the machine's time, faster if asked, plus jumps. Many threads may sleep on it at once.

A stand-in's waits (machines being prepared, time limits, queues) are told in the cloud's own seconds and pass here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_LOOK_SECONDS = 0.05  # how often, in real seconds, a waiter looks at its condition without being woken


class StandinClock:
    """``speed``: seconds of the cloud in one real second; 0 = it only moves by ``advance``. Fits the Protocol Clock."""

    def __init__(self, speed: float = 1.0, start: datetime | None = None) -> None:
        self.speed = speed
        self._epoch = start or datetime.now(UTC)
        self._began = time.monotonic()
        self._jumped = 0.0
        self._moved = threading.Condition()

    def monotonic(self) -> float:
        """Seconds of the cloud since the start."""
        with self._moved:
            return self._seconds()

    def now(self) -> datetime:
        return self._epoch + timedelta(seconds=self.monotonic())

    def sleep(self, seconds: float) -> None:
        self.wait_for(lambda: False, seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once; whoever sleeps that long is woken."""
        with self._moved:
            self._jumped += seconds
            self._moved.notify_all()

    def wait_for(self, happened: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until ``happened()`` or until ``seconds`` of the cloud have passed (None: for ever); what ``happened()`` says then.

        ``happened`` is asked every 50 ms and must not use this clock.
        """
        with self._moved:
            end = None if seconds is None else self._seconds() + seconds
            while not happened():
                left = None if end is None else end - self._seconds()
                if left is not None and left <= 0:
                    return happened()
                self._moved.wait(_LOOK_SECONDS if left is None or not self.speed else min(_LOOK_SECONDS, left / self.speed))
            return True

    def _seconds(self) -> float:
        return (time.monotonic() - self._began) * self.speed + self._jumped
