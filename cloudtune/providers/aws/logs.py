"""A job's log in CloudWatch: every machine and attempt has a stream of its own, and they are told as one, in time order.

    group   /aws/sagemaker/TrainingJobs
    stream  JOB/algo-<machine>-<start>      appears when its container starts, also late and after an interruption

A cursor holds, for each stream, the page's token and how many lines of that page were given, so that a reader who comes
back sees each line once. A stream has ended for now when its token stays the same; an empty page alone says nothing.
Order holds within what one reading finds: a line that CloudWatch shows later than its time is given when it shows.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import CloudtuneError, NotFoundError, UsageError
from cloudtune.providers.aws.client import Regions, asking
from cloudtune.providers.aws.metrics import Rows
from cloudtune.providers.base import LogLine, LogPage
from cloudtune.wire.aws import POLL, Login, Pace, facts_of, server_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudtune.clock import Clock
    from cloudtune.job import JobRef, Progress

GROUP: Final = "/aws/sagemaker/TrainingJobs"
PAGE_LINES: Final = 5_000
SETTLE_SECONDS: Final = 8.0
"""So long after a job's end its last lines may still be on their way."""
LONG_OVER_SECONDS: Final = 120.0
_TAIL_EVENTS: Final = 200
_ENDED: Final = frozenset({"Completed", "Failed", "Stopped"})


@dataclass
class _Follow:
    """Where the reading of one running job's newest lines is."""

    stream: str = ""
    token: str = ""
    rows: Rows = field(default_factory=Rows)


@dataclass
class _Stream:
    """One stream while it is read: where its cursor stands, and the token after its last page."""

    name: str
    token: str | None
    given: int
    ended_at: str | None = None


class AwsLogs:
    """A LogSource, and for the poller the newest lines and progress of running jobs."""

    def __init__(self, regions: Regions, clock: Clock, pace: Pace = POLL, *, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._regions = regions
        self._clock = clock
        self._pace = pace
        self._settle_seconds = settle_seconds
        self._over_since: dict[str, float] = {}
        self._follows: dict[str, _Follow] = {}

    def read(self, ref: JobRef, cursor: str | None) -> LogPage:
        """The lines after ``cursor``. Raises UsageError for a cursor that is not ours, ProviderError when the log cannot be read."""
        login = self._regions.login(ref.place)
        known = _parse(cursor)
        streams = [_Stream(name, *known.get(_short(ref.name, name), (None, 0))) for name in self._streams(login, ref.name)]
        lines = tuple(self._merged(login, streams))
        after = {**known, **{_short(ref.name, one.name): (one.token, one.given) for one in streams}}
        done = not lines and self._is_over(login, ref.name)
        return LogPage(lines, json.dumps(after, separators=(",", ":"), sort_keys=True), done)

    def tail(self, login: Login, name: str, count: int) -> list[str]:
        """The last lines of the newest stream of the first machine."""
        stream = self._newest(login, name)
        if stream is None:
            return []
        return [_shown(event["message"]) for event in self._page(login, stream, None, head=False)["events"]][-count:]

    def look(self, login: Login, name: str) -> None:
        """Read on in the log of a running job for its progress."""
        follow = self._follows.setdefault(name, _Follow())
        newest = self._newest(login, name)
        if newest is None:
            return
        if newest != follow.stream:
            follow.stream, follow.token = newest, ""
        page = self._page(login, newest, follow.token or None, head=bool(follow.token))
        follow.token = page["nextForwardToken"]
        follow.rows.add(_shown(event["message"]) for event in page["events"])

    def progress(self, name: str) -> Progress | None:
        """What the lines that were looked at say; None before the first."""
        follow = self._follows.get(name)
        return follow.rows.progress if follow else None

    def forget(self, name: str) -> None:
        """The job is not followed any more."""
        self._follows.pop(name, None)

    def _merged(self, login: Login, streams: list[_Stream]) -> Iterator[LogLine]:
        """Up to PAGE_LINES lines of all streams in the order of their time; moves the streams' cursors."""
        events = heapq.merge(*(self._events(login, one) for one in streams), key=lambda item: item[:2])
        for count, (at, _, token, given, stream, text) in enumerate(events, 1):
            stream.token, stream.given = token, given
            yield LogLine(text, stream=_host(stream.name), at=at / 1000)
            if count == PAGE_LINES:
                return
        for one in streams:
            if one.ended_at is not None:
                one.token, one.given = one.ended_at, 0

    def _events(self, login: Login, stream: _Stream) -> Iterator[tuple[int, str, str | None, int, _Stream, str]]:
        """The events of one stream from its cursor on, page after page until the token stays the same."""
        token, skip = stream.token, stream.given
        while True:
            page = self._page(login, stream.name, token, head=True)
            for index, event in enumerate(page["events"]):
                if index >= skip:
                    yield event["timestamp"], stream.name, token, index + 1, stream, _shown(event["message"])
            if page["nextForwardToken"] == token:
                stream.ended_at = token
                return
            token, skip = page["nextForwardToken"], 0

    def _page(self, login: Login, stream: str, token: str | None, *, head: bool) -> dict[str, Any]:
        extra: dict[str, Any] = {"nextToken": token} if token else {}
        if not head:
            extra["limit"] = _TAIL_EVENTS
        with asking(login, f"the log {stream}"):
            page: dict[str, Any] = login.client("logs", pace=self._pace).get_log_events(
                logGroupName=GROUP, logStreamName=stream, startFromHead=head, **extra
            )
        return page

    def _streams(self, login: Login, name: str, prefix: str = "") -> list[str]:
        """Names of the job's streams, sorted; none before a container of it has started."""
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            try:
                with asking(login, f"the log of {name}"):
                    page = login.client("logs", pace=self._pace).describe_log_streams(
                        logGroupName=GROUP, logStreamNamePrefix=f"{name}/{prefix}", **token
                    )
            except CloudtuneError as error:
                if error.__cause__ is not None and facts_of(error.__cause__).code == "ResourceNotFoundException":
                    return []  # the account has never had a training job's log
                raise
            found += [stream["logStreamName"] for stream in page.get("logStreams", ())]
            if not page.get("nextToken"):
                return sorted(found)
            token = {"nextToken": page["nextToken"]}

    def _newest(self, login: Login, name: str) -> str | None:
        """The first machine's stream of the last attempt: its name ends with its start."""
        return max(self._streams(login, name, "algo-1-"), key=lambda stream: (len(stream), stream), default=None)

    def _is_over(self, login: Login, name: str) -> bool:
        """The job has ended, and long enough ago that its last lines must be here."""
        try:
            with asking(login, f"training job {name}"):
                answer = login.client("sagemaker", pace=self._pace).describe_training_job(TrainingJobName=name)
        except NotFoundError:
            return True
        if answer.get("TrainingJobStatus") not in _ENDED:
            self._over_since.pop(name, None)
            return False
        if _long_over(answer):
            return True
        since = self._over_since.setdefault(name, self._clock.monotonic())
        return self._clock.monotonic() - since >= self._settle_seconds


def _long_over(answer: Mapping[str, Any]) -> bool:
    ended, now = answer.get("TrainingEndTime") or answer.get("LastModifiedTime"), server_time(answer)
    return isinstance(ended, datetime) and now is not None and (now - ended).total_seconds() >= LONG_OVER_SECONDS


def _parse(cursor: str | None) -> dict[str, tuple[str | None, int]]:
    if cursor is None:
        return {}
    try:
        return {str(name): (None if token is None else str(token), int(given)) for name, (token, given) in json.loads(cursor).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{cursor[:40]!r} is not a log cursor", hint="take the one that an earlier page gave") from error


def _short(job: str, stream: str) -> str:
    return stream.removeprefix(f"{job}/")


def _host(stream: str) -> str:
    """``JOB/algo-2-1716`` → ``algo-2``."""
    return stream.rpartition("/")[2].rpartition("-")[0]


def _shown(message: str) -> str:
    """What a terminal would show of it: a progress bar overwrites itself after each carriage return."""
    return message.rstrip("\r\n").rpartition("\r")[2]
