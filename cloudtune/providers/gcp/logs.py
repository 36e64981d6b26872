"""A job's log from Cloud Logging, by one REST call a page. Entries arrive late and out of order, so each read looks back a minute.

The cursor holds the newest time that was seen and short digests of the entries of the last minute before it: what was
given is not given again, and what came late is given when it shows.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import AuthError, NotFoundError, UsageError
from cloudtune.providers.base import LogLine, LogPage
from cloudtune.providers.gcp.readings import is_final

if TYPE_CHECKING:
    from cloudtune.clock import Clock
    from cloudtune.job import JobRef
    from cloudtune.providers.gcp.client import Seen
    from cloudtune.providers.gcp.jobs import GcpJobs
    from cloudtune.providers.gcp.services import Services

PAGE: Final = 1000
OVERLAP_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 20.0
"""So long after a job's end its last lines may still be on their way."""
_HINT: Final = "you need roles/logging.viewer; progress and results are shown without it"


class GcpLogs:
    """A LogSource over the log entries of a job's replicas."""

    def __init__(self, jobs: GcpJobs, services: Services, clock: Clock, *, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._jobs = jobs
        self._settle_seconds = settle_seconds
        self._services = services
        self._clock = clock
        self._over_since: dict[str, float] = {}

    def read(self, ref: JobRef, cursor: str | None) -> LogPage:
        """The lines after ``cursor``. Raises UsageError for a cursor that is not ours, ProviderError when the log cannot be read."""
        newest, given = _parse(cursor)
        seen = self._jobs.one(ref)
        if seen is None:
            raise NotFoundError("Vertex AI has no such job", where=str(ref), hint="list the jobs with: cloudtune ps")
        entries = [entry for entry in self._entries(ref.place.rpartition(".")[0], seen, newest) if _digest(entry) not in given]
        page, more = entries[:PAGE], len(entries) > PAGE
        newest = max([newest, *(str(entry["timestamp"]) for entry in page)])
        since = _back(newest)
        kept = [mark for mark, at in given.items() if at >= since]
        marks = {**{mark: given[mark] for mark in kept}, **{_digest(entry): str(entry["timestamp"]) for entry in page}}
        after = {"at": newest, "seen": {mark: at for mark, at in marks.items() if at >= since}}
        done = not page and not more and self._is_over(ref, seen)
        return LogPage(tuple(_line(entry) for entry in page), json.dumps(after, separators=(",", ":"), sort_keys=True), done)

    def _entries(self, project: str, seen: Seen, newest: str) -> list[dict[str, Any]]:
        """What may be new, oldest first: from a minute before the newest time that was seen."""
        wanted = f'resource.type="ml_job" AND resource.labels.job_id="{seen.key}"'
        if newest:
            wanted += f' AND timestamp>="{_back(newest)}"'
        found: list[dict[str, Any]] = []
        body: dict[str, Any] = {"resourceNames": [f"projects/{project}"], "filter": wanted, "orderBy": "timestamp asc", "pageSize": PAGE}
        while True:
            try:
                answer = self._services.post("logging", "/v2/entries:list", body)
            except AuthError as error:
                raise error if error.code == "login" else _with_hint(error) from error.__cause__
            found += answer.get("entries", ())
            token = answer.get("nextPageToken")
            if not token or len(found) > 4 * PAGE:
                return found
            body["pageToken"] = token

    def _is_over(self, ref: JobRef, seen: Seen) -> bool:
        """The job has ended, and long enough ago that its last lines must be here."""
        if not is_final(seen):
            self._over_since.pop(ref.name, None)
            return False
        if seen.ended is not None and (self._clock.now() - seen.ended).total_seconds() > 2 * OVERLAP_SECONDS:
            return True
        since = self._over_since.setdefault(ref.name, self._clock.monotonic())
        return self._clock.monotonic() - since >= self._settle_seconds


def _with_hint(error: AuthError) -> AuthError:
    return AuthError(error.what, where=error.where, code=error.code, hint=_HINT)


def _line(entry: dict[str, Any]) -> LogLine:
    payload = entry.get("jsonPayload", {})
    text = str(payload.get("message") if isinstance(payload, dict) and payload.get("message") is not None else entry.get("textPayload", ""))
    stream = str(entry.get("resource", {}).get("labels", {}).get("task_name", ""))
    return LogLine(text.rstrip("\r\n").rpartition("\r")[2], stream=stream, at=_moment(str(entry["timestamp"])).timestamp())


def _digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(f"{entry.get('timestamp')} {entry.get('insertId')} {entry.get('logName')}".encode()).hexdigest()[:12]


def _back(newest: str) -> str:
    """A minute before; times of one form compare as texts."""
    return _stamp(_moment(newest) - timedelta(seconds=OVERLAP_SECONDS)) if newest else ""


def _moment(text: str) -> datetime:
    """An RFC 3339 time; what is finer than microseconds is cut."""
    head, dot, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{rest[:6].ljust(6, '0')}" if dot else head).replace(tzinfo=UTC)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _parse(cursor: str | None) -> tuple[str, dict[str, str]]:
    if cursor is None:
        return "", {}
    try:
        body = json.loads(cursor)
        return str(body["at"]), {str(mark): str(at) for mark, at in body["seen"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{cursor[:40]!r} is not a log cursor", hint="take the one that an earlier page gave") from error
