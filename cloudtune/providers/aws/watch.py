"""The jobs of one region, followed with few calls: what changed is listed, only that is described, the rest is remembered.

    first sight   DescribeTrainingJob for each, several at once
    later         one ListTrainingJobs of what was modified since; its pages may be empty and go on
    progress      the newest log lines of a few running jobs per round, taking turns

So the calls of a round do not depend on how many jobs have not changed. The time to list from is reckoned in the
service's own stamps: the newest stamp that was seen, plus the time that has passed here since (the service's clock can
only be later than that), less an overlap. This machine's wall clock does not enter.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import CloudtuneError, NotFoundError
from cloudtune.job import JobRef, JobState, Reading
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.readings import Seen, lost, reading_of, seen_of
from cloudtune.wire.aws import Login, Pace, patient, server_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cloudtune.clock import Clock
    from cloudtune.providers.aws.logs import AwsLogs

AT_ONCE: Final = 8
OVERLAP: Final = timedelta(seconds=30)
MOST_REMEMBERED: Final = 20_000
TAILS: Final = 4
"""Running jobs whose log is looked at in one round."""
TAIL_SECONDS: Final = 10.0
FAILURE_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class Anchor:
    """``stamp`` of the service was seen at ``monotonic`` of this machine."""

    stamp: datetime
    monotonic: float


class Watch:
    """Follows jobs of one region. May be used by several threads; one round at a time."""

    def __init__(self, login: Login, clock: Clock, pace: Pace, logs: AwsLogs | None, *, least_seconds: float) -> None:
        self._login = login
        self._clock = clock
        self._pace = patient(pace, AT_ONCE + 2)
        self._logs = logs
        self._least_seconds = least_seconds
        self._seen: dict[str, Seen] = {}
        self._anchor: Anchor | None = None
        self._listed_at: float | None = None
        self._server: tuple[datetime, float] | None = None
        self._tailed: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def remembered(self) -> int:
        """How many jobs are kept in mind."""
        return len(self._seen)

    def read(self, refs: Sequence[JobRef]) -> dict[str, Reading]:
        """A reading for each ref, by name. Raises ProviderError and QuotaError when the service cannot be asked."""
        with self._lock:
            names = list(dict.fromkeys(ref.name for ref in refs))
            open_ones = [name for name in names if (seen := self._seen.get(name)) is not None and not seen.settled]
            if open_ones and self._may_list():
                self._describe(self._changed(open_ones))
            self._describe([name for name in names if name not in self._seen])
            self._tail(names)
            readings = {ref.name: self._reading(ref) for ref in refs}
            self._forget_old(names)
            return readings

    def touch(self, name: str) -> None:
        """The job was changed by us: describe it in the next round, whatever the list says."""
        with self._lock:
            seen = self._seen.get(name)
            if seen is not None and not seen.settled:
                del self._seen[name]

    def describe(self, name: str) -> dict[str, Any]:
        """DescribeTrainingJob's answer. Raises NotFoundError and ProviderError."""
        with asking(self._login, f"training job {name}"):
            answer: dict[str, Any] = self._login.client("sagemaker", pace=self._pace).describe_training_job(TrainingJobName=name)
            return answer

    def _may_list(self) -> bool:
        return self._listed_at is None or self._clock.monotonic() - self._listed_at >= self._least_seconds

    def _changed(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` whose summary is not what we remember."""
        began = self._clock.monotonic()
        wanted, changed = set(names), []
        newest: datetime | None = None
        for summary in self._list(began):
            stamp = (str(summary.get("TrainingJobStatus", "")), str(summary.get("SecondaryStatus", "")), summary.get("LastModifiedTime"))
            name = summary["TrainingJobName"]
            newest = max(newest or stamp[2], stamp[2]) if stamp[2] else newest
            if name in wanted and _differs(self._seen[name].stamp, stamp):
                changed.append(name)
        self._listed_at = began
        self._move_anchor(newest, began)
        return changed

    def _list(self, began: float) -> Iterator[dict[str, Any]]:
        """Summaries of every job of the region that was modified lately, whoever started it."""
        since = {} if self._anchor is None else {"LastModifiedTimeAfter": self._now_at_least(self._anchor, began) - OVERLAP}
        token: dict[str, str] = {}
        while True:
            with asking(self._login, "the list of training jobs"):
                page = self._login.client("sagemaker", pace=self._pace).list_training_jobs(MaxResults=100, **since, **token)
            self._note_time(page)
            yield from page.get("TrainingJobSummaries", ())
            if not page.get("NextToken"):  # a page may be empty and still not be the last
                return
            token = {"NextToken": page["NextToken"]}

    def _move_anchor(self, newest: datetime | None, at: float) -> None:
        """A later stamp, or the old one: it moves forward only, and only by what the service itself has written."""
        if newest is not None and (self._anchor is None or newest > self._now_at_least(self._anchor, at)):
            self._anchor = Anchor(newest, at)

    @staticmethod
    def _now_at_least(anchor: Anchor, monotonic: float) -> datetime:
        return anchor.stamp + timedelta(seconds=max(0.0, monotonic - anchor.monotonic))

    def _describe(self, names: Sequence[str]) -> None:
        """Remember the present state of ``names``. The anchor is set from the first few, before any later change can be missed."""
        first, later = names[:AT_ONCE], names[AT_ONCE:]
        for group in (first, later):
            if not group:
                continue
            began = self._clock.monotonic()
            for name, seen in zip(group, self._described(group), strict=True):
                if seen is None:
                    self._seen.pop(name, None)
                else:
                    self._seen[name] = seen
            if group is first and self._anchor is None:
                stamps = [seen.stamp[2] for name in group if (seen := self._seen.get(name)) is not None and seen.stamp[2] is not None]
                self._move_anchor(max(stamps, default=None), began)

    def _described(self, names: Sequence[str]) -> list[Seen | None]:
        if len(names) == 1:
            return [self._look(names[0])]
        with ThreadPoolExecutor(min(AT_ONCE, len(names)), thread_name_prefix="aws-describe") as pool:
            try:
                return list(pool.map(self._look, names))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _look(self, name: str) -> Seen | None:
        try:
            answer = self.describe(name)
        except NotFoundError:
            return None
        self._note_time(answer)
        seen = seen_of(answer)
        return self._with_log(name, seen) if seen.state is JobState.FAILED else seen

    def _with_log(self, name: str, seen: Seen) -> Seen:
        """A failure with the last lines of its log, as far as they can be had."""
        from dataclasses import replace

        try:
            lines = self._logs.tail(self._login, name, FAILURE_LINES) if self._logs else []
        except CloudtuneError:
            return seen
        return replace(seen, message="\n".join([seen.message, *lines]))

    def _note_time(self, answer: dict[str, Any]) -> None:
        now = server_time(answer)
        if now is not None:
            self._server = (now, self._clock.monotonic())

    def _server_now(self) -> datetime | None:
        if self._server is None:
            return None
        return self._server[0] + timedelta(seconds=max(0.0, self._clock.monotonic() - self._server[1]))

    def _tail(self, names: Sequence[str]) -> None:
        """Let the running jobs that were looked at longest ago say how far they are. Without logs nothing is missing but that."""
        if self._logs is None:
            return
        now = self._clock.monotonic()
        running = [name for name in names if (seen := self._seen.get(name)) is not None and seen.state is JobState.RUNNING]
        due = sorted((self._tailed.get(name, float("-inf")), name) for name in running)
        for last, name in due[:TAILS]:
            if now - last < min(TAIL_SECONDS, self._least_seconds):
                break
            self._tailed[name] = now
            try:
                self._logs.look(self._login, name)
            except CloudtuneError:
                continue

    def _reading(self, ref: JobRef) -> Reading:
        seen = self._seen.get(ref.name)
        if seen is None:
            return lost(ref)
        return reading_of(ref, seen, self._server_now(), self._logs.progress(ref.name) if self._logs else None)

    def _forget_old(self, names: Iterable[str]) -> None:
        """Keep memory flat: jobs that nobody asks about any more go first."""
        asked = set(names)
        for name in [name for name in self._tailed if name not in asked or self._seen.get(name) is None or self._seen[name].settled]:
            del self._tailed[name]
            if self._logs is not None:
                self._logs.forget(name)
        while len(self._seen) > max(MOST_REMEMBERED, len(asked)):
            del self._seen[next(name for name in self._seen if name not in asked)]


def _differs(known: tuple[str, str, datetime | None], listed: tuple[str, str, datetime | None]) -> bool:
    """A summary may leave the secondary status out; a time alone tells of a change then."""
    return known[0] != listed[0] or known[2] != listed[2] or (bool(listed[1]) and known[1] != listed[1])
