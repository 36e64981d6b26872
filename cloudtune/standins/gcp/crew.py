"""The machines of one attempt of a job, as the state machine sees them: who has ended and how. Starts nothing by itself.

``TimedCrew`` is the mode in which nothing runs: it ends after a time on the stand-in's clock, for tests of everything
around a job and for thousands of jobs at once. hosts.py has the crew of real programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


class Crew(Protocol):
    """One attempt. ``ended``: replica name → exit code of those that are over; ``wait``: whether all are, within real seconds.

    ``stop`` asks all of them to end and ends them by force after ``grace`` real seconds.
    """

    def ended(self) -> Mapping[str, int]: ...
    def wait(self, seconds: float) -> bool: ...
    def stop(self, grace: float) -> None: ...
    def restart(self, replica: str) -> None: ...


@dataclass(frozen=True)
class Attempt:
    """What a crew is made for: the job as a proto, its number among the starts of this job, and where its lines go."""

    job: object
    name: str
    number: int
    on_line: Callable[[str, str], None]


MakeCrew = Callable[[Attempt], Crew]


class TimedCrew:
    """Ends with ``code`` after ``seconds`` of ``now``; ends at once when it is stopped."""

    def __init__(self, replicas: tuple[str, ...], now: Callable[[], datetime], seconds: float, code: int) -> None:
        self._replicas = replicas
        self._now = now
        self._seconds = seconds
        self._code = code
        self._end = now() + timedelta(seconds=seconds)
        self._stopped = False

    def ended(self) -> Mapping[str, int]:
        if self._stopped:
            return dict.fromkeys(self._replicas, 143)
        return dict.fromkeys(self._replicas, self._code) if self._now() >= self._end else {}

    def wait(self, seconds: float) -> bool:  # noqa: ARG002 - the answer would not change
        return self._stopped or self._now() >= self._end

    def stop(self, grace: float) -> None:  # noqa: ARG002 - nothing runs, so nothing needs time to save
        self._stopped = True

    def restart(self, replica: str) -> None:  # noqa: ARG002 - all of them behave alike
        self._end = self._now() + timedelta(seconds=self._seconds)


def replicas_of(job: object) -> tuple[str, ...]:
    """``workerpool0-0`` and so on, the primary first."""
    pools = job.job_spec.worker_pool_specs  # type: ignore[attr-defined]
    return tuple(f"workerpool{index}-{number}" for index, pool in enumerate(pools) for number in range(int(pool.replica_count)))
