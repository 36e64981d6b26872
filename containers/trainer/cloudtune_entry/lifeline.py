"""A local job's tie to its launcher: a file that is touched while somebody on the other side looks after the job.

Without it, killing the launcher would leave a container that nobody knows to be running. Cloud jobs have no such file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudtune_entry.child import Signals
from cloudtune_entry.outcome import say

VARIABLE = "CLOUDTUNE_LIFELINE"
STILL_SECONDS = 30.0
SAVE_SECONDS = 120.0


@dataclass
class Lifeline:
    """``path`` is None where nobody holds the other end. Time is measured by this clock: a suspended laptop does not count."""

    path: Path | None
    still_seconds: float = STILL_SECONDS
    _seen: int = 0
    _since: float = 0.0

    def tick(self, signals: Signals) -> None:
        """Ask the job to end when the file has stood still too long."""
        if self.path is None or signals.kill_at is not None:
            return
        try:
            touched = self.path.stat().st_mtime_ns
        except OSError:
            touched = 0
        if touched != self._seen or not self._since:
            self._seen, self._since = touched, time.monotonic()
        elif time.monotonic() - self._since > self.still_seconds:
            say("the launcher is gone; saving and ending")
            signals.asked = True
            signals.kill_at = time.monotonic() + SAVE_SECONDS


def make_lifeline(environ: Mapping[str, str]) -> Lifeline:
    """The lifeline that the environment names."""
    path = environ.get(VARIABLE)
    return Lifeline(Path(path) if path else None, float(environ.get("CLOUDTUNE_LIFELINE_SECONDS", STILL_SECONDS)))
