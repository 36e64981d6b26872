"""What Cloud Logging keeps of the jobs, and its one call ``entries:list``: filters, order, pages, and lines that show late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from cloudtune.standins.gcp.answers import ApiError, denied
from cloudtune.standins.gcp.filters import Lookup, parse_filter
from cloudtune.standins.gcp.scene import Scene
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

EVERY_LATE = 5  # of the lines of a job, when the scene says that some are late
SERVICE_TASK = "service"


@dataclass(frozen=True)
class Entry:
    """One entry; ``shown`` is when it can first be read."""

    at: datetime
    shown: datetime
    insert_id: str
    job: str
    task: str
    text: str
    severity: str


@dataclass
class LogBook:
    """All entries. Thread-safe."""

    scene: Scene
    now: Callable[[], datetime]
    entries: list[Entry] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: Any = field(default_factory=lambda: count(1))
    _of_job: dict[str, int] = field(default_factory=dict)

    def add(self, job: str, task: str, text: str, at: datetime | None = None) -> None:
        """One line of a replica, or of the service itself."""
        with self._lock:
            moment = at or self.now()
            seen = self._of_job[job] = self._of_job.get(job, 0) + 1
            late = self.scene.log_late if seen % EVERY_LATE == 0 else 0.0
            severity = "ERROR" if "Traceback" in text else "INFO"
            shown = moment + timedelta(seconds=late)
            self.entries.append(Entry(moment, shown, f"{next(self._numbers):012x}", job, task, text, severity))

    def routes(self) -> list[Route]:
        return [route("POST", "/v2/entries:list", "entries.list", self.read)]

    def read(self, call: Call) -> Answer:
        """``entries:list``."""
        body = call.json()
        wanted = [str(name) for name in body.get("resourceNames", [])]
        if not wanted:
            raise ApiError("INVALID_ARGUMENT", "resource_names must contain at least one resource name.")
        if not {f"projects/{self.scene.project}", f"projects/{self.scene.number}"} & set(wanted):
            raise denied("logging.logEntries.list", wanted[0], "logging.googleapis.com")
        if "logging.logEntries.list" in self.scene.denied:
            raise ApiError("PERMISSION_DENIED", "Permission denied for all log views")
        test = parse_filter(str(body.get("filter", "")))
        backwards = str(body.get("orderBy", "timestamp asc")).endswith("desc")
        size = min(int(body.get("pageSize") or 50), self.scene.log_page)
        page, more = self.page(lambda entry: test(self._lookup(entry)), backwards, size, str(body.get("pageToken", "")))
        shown = {"entries": [self.shown(entry) for entry in page]} if page else {}
        return Answer({**shown, **({"nextPageToken": more} if more else {})})

    def page(self, test: Callable[[Entry], bool], backwards: bool, size: int, token: str) -> tuple[list[Entry], str]:
        """Visible entries in the order of time, then insert id, after the one that ``token`` names."""
        now = self.now()
        with self._lock:
            found = sorted((one for one in self.entries if one.shown <= now), key=_order, reverse=backwards)
        if token:
            mark = tuple(token.split("|", 1))
            after = [one for one in found if (_order(one) < mark if backwards else _order(one) > mark)]
        else:
            after = found
        chosen = [one for one in after if test(one)]
        page = chosen[:size]
        return page, "|".join(_order(page[-1])) if len(chosen) > size else ""

    def shown(self, entry: Entry) -> dict[str, Any]:
        """An entry as JSON, in the shape that training containers get: the line is ``jsonPayload.message``."""
        service = entry.task == SERVICE_TASK
        payload = {"textPayload": entry.text} if service else {"jsonPayload": {"message": entry.text, "levelname": entry.severity}}
        return {
            **payload,
            "insertId": entry.insert_id,
            "resource": {"type": "ml_job", "labels": self._labels(entry)},
            "timestamp": _stamp(entry.at),
            "receiveTimestamp": _stamp(entry.shown),
            "severity": entry.severity,
            "labels": {"ml.googleapis.com/endpoint": ""},
            "logName": self._log_name(entry),
        }

    def _labels(self, entry: Entry) -> dict[str, str]:
        return {"job_id": entry.job, "project_id": self.scene.project, "task_name": entry.task}

    def _log_name(self, entry: Entry) -> str:
        return f"projects/{self.scene.project}/logs/{'ml.googleapis.com%2F' + entry.job if entry.task == SERVICE_TASK else entry.task}"

    def _lookup(self, entry: Entry) -> Lookup:
        def look(name: str) -> Any:
            known: dict[str, Any] = {
                "resource.type": "ml_job",
                "timestamp": entry.at,
                "receiveTimestamp": entry.shown,
                "insertId": entry.insert_id,
                "logName": self._log_name(entry),
                "severity": entry.severity,
                "jsonPayload.message": None if entry.task == SERVICE_TASK else entry.text,
                "textPayload": entry.text if entry.task == SERVICE_TASK else None,
            }
            head, _, key = name.rpartition(".")
            return self._labels(entry).get(key) if head == "resource.labels" else known.get(name)

        return look


def _order(entry: Entry) -> tuple[str, str]:
    return _stamp(entry.at), entry.insert_id


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
