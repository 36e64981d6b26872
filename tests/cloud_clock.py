"""Clocks for tests with a stand-in cloud: one that passes in its time, one that is quicker than the machine's. Not a test itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cloudtune.clock import SystemClock


class CloudClock(SystemClock):
    """The stand-in's time: sleeping moves it on at once, so that a wait costs a test nothing."""

    def __init__(self, cloud: Any) -> None:
        self._cloud = cloud

    def now(self) -> datetime:
        return self._cloud.clock.now()

    def monotonic(self) -> float:
        return self._cloud.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._cloud.clock.advance(seconds)


class HurriedClock(SystemClock):
    """The machine's clock for one whose pauses are made for a real cloud: what is timed by it is over so many ``times`` sooner."""

    def __init__(self, times: float = 10.0) -> None:
        self._times = times

    def monotonic(self) -> float:
        return super().monotonic() * self._times

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / self._times)
