"""A machine's lines on their way to CloudWatch: one stream per machine and attempt, written in batches, late or with gaps if asked."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cloudtune.standins.aws.account import Quirks
    from cloudtune.standins.clock import StandinClock

GROUP: Final = "/aws/sagemaker/TrainingJobs"
_BATCH_SECONDS: Final = 0.2
_MOST_LINES: Final = 1_000
_LONGEST: Final = 200_000
_MOST_AHEAD: Final = 7_000.0


class LogWriter:
    """Takes lines from any thread; ``close`` returns when all of them are written."""

    def __init__(self, logs: Any, clock: StandinClock, quirks: Quirks, job: str, epoch: int) -> None:
        self._logs = logs
        self._clock = clock
        self._quirks = quirks
        self._job = job
        self._epoch = epoch
        self._lines: queue.SimpleQueue[tuple[str, int, str] | None] = queue.SimpleQueue()
        self._streams: set[str] = set()
        self._seen = 0
        self._began = clock.monotonic()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def line(self, host: str, text: str) -> None:
        """One line of one machine, now."""
        # The service, and moto, refuse what is more than two hours ahead of the true time, as a clock that was advanced is.
        at = min(self._clock.now().timestamp(), time.time() + _MOST_AHEAD)
        self._lines.put((host, int(at * 1000), text))

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join(60)

    def _write(self) -> None:
        going = True
        waiting: list[tuple[str, int, str]] = []
        while going:
            going = self._gather(waiting)
            late = self._clock.monotonic() - self._began < self._quirks.late_streams
            if waiting and (not late or not going):
                self._put(waiting)
                waiting.clear()

    def _gather(self, waiting: list[tuple[str, int, str]]) -> bool:
        """Lines of a moment into ``waiting``; False after the last one."""
        try:
            first = self._lines.get(timeout=_BATCH_SECONDS)
        except queue.Empty:
            return True
        while first is not None:
            self._seen += 1
            if not self._quirks.log_gaps or self._seen % self._quirks.log_gaps:
                waiting.append(first)
            if len(waiting) >= _MOST_LINES or self._lines.empty():
                return True
            first = self._lines.get()
        return False

    def _put(self, lines: list[tuple[str, int, str]]) -> None:
        for host in dict.fromkeys(host for host, _, _ in lines):
            stream = f"{self._job}/{host}-{self._epoch}"
            if stream not in self._streams:
                self._logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
                self._streams.add(stream)
            # The service refuses empty messages; a container's empty line is written as a blank there too.
            events = [{"timestamp": at, "message": text[:_LONGEST] or " "} for name, at, text in lines if name == host]
            self._logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)
