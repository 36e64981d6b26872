"""A clock that passes in a stand-in cloud's time. Not a test itself."""

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
