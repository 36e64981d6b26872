"""The ledger: append-only events in one SQLite file, and the current view of every launch as their fold.

Order is the order of writing (``seq``), never a clock: clocks jump. What is written is never changed; the cached
views in ``heads`` are derived and can be rebuilt. It calls no provider and decides nothing.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloudtune.errors import UsageError
from cloudtune.job import Event, EventKind, JobRef, JobView, LaunchId, Reading, changed, reading_body
from cloudtune.ledger.database import BUSY_SECONDS, Database
from cloudtune.ledger.heads import EVENT_COLUMNS, Head, advance, read_event, read_head, rebuild_heads
from cloudtune.ledger.views import load_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cloudtune.clock import Clock

FILE_NAME = "ledger.db"


@dataclass(frozen=True, slots=True)
class Launch:
    """What was intended: JSON of plan and request, and the price per machine when it was launched.

    ``plan`` is empty for a job that was found at its provider and not launched from this ledger.
    """

    id: LaunchId
    provider: str
    recipe: str
    plan: str
    request: str
    usd_per_hour: float | None = None
    nodes: int = 1


class Ledger:
    """Every writing method is one transaction, on the disk when it returns. All methods raise LedgerError."""

    def __init__(self, home: Path, clock: Clock, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._clock = clock
        self._database = Database(home / FILE_NAME, clock, busy_seconds=busy_seconds)

    @property
    def path(self) -> Path:
        return self._database.path

    def close(self) -> None:
        self._database.close()

    def intend(self, launch: Launch, *, output_dir: str = "") -> JobView:
        """Record the intention before anybody is called. The same intention twice is one.

        Raises UsageError when the id already names a job with another plan.
        """

        def work(connection: sqlite3.Connection) -> JobView:
            known = _launch(connection, launch.id)
            if known is None:
                connection.execute(_INSERT_LAUNCH, _row(launch, self._clock.now().isoformat()))
            elif (known.provider, known.plan) != (launch.provider, launch.plan):
                raise UsageError(f"{launch.id} already names another job", code="launch-id-taken", hint="launch without a job id")
            return self._append(connection, launch.id, "intended", {"output_dir": output_dir}, "intended")

        return self._database.write(work)

    def confirm(self, launch_id: LaunchId, ref: JobRef) -> JobView:
        """Record that the provider has the job under ``ref``."""
        return self.append(launch_id, "confirmed", {"ref": str(ref)}, key=f"confirmed:{ref}")

    def append(self, launch_id: LaunchId, kind: EventKind, body: Mapping[str, Any], *, key: str = "") -> JobView:
        """Add one event and return the view after it.

        Events of one launch with the same ``key`` are written once, so that a writer may try again after a fault.
        """
        return self._database.write(lambda connection: self._append(connection, launch_id, kind, body, key))

    def record(self, readings: Sequence[tuple[LaunchId, Reading]]) -> list[JobView]:
        """Add readings, in order, and return the views after them. What was said last, or after the end, is not written again."""
        bodies = [(launch_id, reading_body(reading)) for launch_id, reading in readings]
        heads = self._database.read(lambda connection: [read_head(connection, launch_id) for launch_id, _ in bodies])
        if all(_nothing_new(head, body) for head, (_, body) in zip(heads, bodies, strict=True)):
            return [head.view for head in heads]
        return self._database.write(lambda connection: [self._record(connection, *each) for each in bodies])

    def view(self, launch_id: LaunchId) -> JobView | None:
        """The current view of one launch, or None."""
        rows = self._rows("SELECT view FROM heads WHERE launch_id = ?", launch_id)
        return load_view(rows[0][0]) if rows else None

    def views(self, *, is_open: bool | None = None, prefix: str = "", recipe: str = "", limit: int = -1) -> list[JobView]:
        """Views in the order of launching, newest last; ``limit`` keeps the newest, ``prefix`` is of the job's id."""
        wanted: dict[str, object] = {}  # only what is asked for, so that an index can be used
        if is_open is not None:
            wanted["is_open = ?"] = int(is_open)
        if prefix:
            wanted["launch_id BETWEEN ? AND ? || '\U0010ffff'"] = prefix
        if recipe:
            wanted["recipe = ?"] = recipe
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        values = [value for clause, value in wanted.items() for _ in range(clause.count("?"))]
        rows = self._rows(f"SELECT view FROM heads {where} ORDER BY born DESC LIMIT ?", *values, limit)  # noqa: S608 - fixed words
        return [load_view(row[0]) for row in reversed(rows)]

    def events(self, launch_id: LaunchId | None = None, *, after: int = 0) -> list[Event]:
        """Events with ``seq`` above ``after``, oldest first; of every launch when no id is given."""
        sql = f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > ?1 AND (?2 IS NULL OR launch_id = ?2) ORDER BY seq"  # noqa: S608 - fixed words
        return [read_event(row) for row in self._rows(sql, after, launch_id)]

    def launch(self, launch_id: LaunchId) -> Launch | None:
        """Plan, request and price of one launch, or None."""
        return self._database.read(lambda connection: _launch(connection, launch_id))

    def prices(self) -> dict[LaunchId, tuple[float | None, int]]:
        """(USD per hour of one machine, number of machines) of every launch, without reading the plans."""
        return {LaunchId(row[0]): (row[1], row[2]) for row in self._rows("SELECT id, usd_per_hour, nodes FROM launches")}

    def bills(self) -> dict[LaunchId, Mapping[str, Any]]:
        """The last ``cost`` event of every launch that has one: what its provider billed in the end."""
        sql = "SELECT launch_id, body FROM events WHERE kind = 'cost' ORDER BY seq"
        return {LaunchId(row[0]): json.loads(row[1]) for row in self._rows(sql)}

    def rebuild(self) -> int:
        """Throw the cached views away and fold every event again. Returns the number of events."""
        return self._database.write(rebuild_heads)

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.read(lambda connection: connection.execute(sql, values).fetchall())

    def _append(self, connection: sqlite3.Connection, launch_id: LaunchId, kind: EventKind, body: Mapping[str, Any], key: str) -> JobView:
        head = read_head(connection, launch_id)
        at = self._clock.now()
        text = json.dumps(dict(body), sort_keys=True, separators=(",", ":"))
        dedupe = f"{launch_id}:{key or f'{kind}:after:{head.seq}'}"
        cursor = connection.execute(_INSERT_EVENT, (launch_id, kind, at.isoformat(), text, dedupe))
        if cursor.rowcount == 0:
            return head.view
        return advance(connection, Event(launch_id, kind, at, json.loads(text), cursor.lastrowid or 0))

    def _record(self, connection: sqlite3.Connection, launch_id: LaunchId, body: dict[str, Any]) -> JobView:
        head = read_head(connection, launch_id)
        if _nothing_new(head, body):
            return head.view
        # The key names the event it follows, so two trackers that saw the same change write one event.
        return self._append(connection, launch_id, "reading", _without_losses(body), f"reading:{head.seq}:{changed(body)}")


_INSERT_LAUNCH = "INSERT INTO launches (id, provider, recipe, created, usd_per_hour, nodes, plan, request) VALUES (?,?,?,?,?,?,?,?)"
_INSERT_EVENT = "INSERT INTO events (launch_id, kind, at, body, dedupe) VALUES (?,?,?,?,?) ON CONFLICT (dedupe) DO NOTHING"


def _row(launch: Launch, created: str) -> tuple[object, ...]:
    return (launch.id, launch.provider, launch.recipe, created, launch.usd_per_hour, launch.nodes, launch.plan, launch.request)


def _launch(connection: sqlite3.Connection, launch_id: LaunchId) -> Launch | None:
    sql = "SELECT id, provider, recipe, plan, request, usd_per_hour, nodes FROM launches WHERE id = ?"
    row = connection.execute(sql, (launch_id,)).fetchone()
    return Launch(*row) if row else None


def _without_losses(body: Mapping[str, Any]) -> dict[str, Any]:
    """A reading's body without its loss curve, which every step would write again."""
    progress = body.get("progress")
    return {**body, "progress": {**progress, "losses": []}} if progress else dict(body)


def _nothing_new(head: Head, body: Mapping[str, Any]) -> bool:
    return head.view.state.terminal or head.reading == changed(body)
