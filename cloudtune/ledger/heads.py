"""The cached fold of each launch: one row in ``heads``, moved forward in the same transaction as its event.

Everything here runs inside a transaction of the caller's and can be computed again from the events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cloudtune.errors import LedgerError
from cloudtune.job import Event, JobView, LaunchId, changed, fold, start
from cloudtune.ledger.views import dump_view, load_view

if TYPE_CHECKING:
    import sqlite3

EVENT_COLUMNS = "seq, launch_id, kind, at, body"
_UPSERT = """
INSERT INTO heads (launch_id, seq, born, is_open, provider, recipe, reading, view) VALUES (?,?,?,?,?,?,?,?)
ON CONFLICT (launch_id) DO UPDATE SET seq = excluded.seq, is_open = excluded.is_open, reading = excluded.reading, view = excluded.view
"""


@dataclass(frozen=True, slots=True)
class Head:
    """``seq`` of the last event, ``born`` of the first, digest of the last reading, and the view."""

    seq: int
    born: int
    reading: str
    view: JobView


def read_event(row: tuple[Any, ...]) -> Event:
    """One row of EVENT_COLUMNS."""
    seq, launch_id, kind, at, body = row
    return Event(LaunchId(launch_id), kind, datetime.fromisoformat(at), json.loads(body), seq)


def read_head(connection: sqlite3.Connection, launch_id: LaunchId) -> Head:
    """The head of one launch. Raises LedgerError when the ledger does not know it."""
    row = connection.execute("SELECT seq, born, reading, view FROM heads WHERE launch_id = ?", (launch_id,)).fetchone()
    if row is not None:
        return Head(row[0], row[1], row[2], load_view(row[3]))
    launch = connection.execute("SELECT provider, recipe FROM launches WHERE id = ?", (launch_id,)).fetchone()
    if launch is None:
        raise LedgerError(f"there is no job {launch_id}", code="no-such-job", hint="list the jobs with: cloudtune ps")
    return Head(0, 0, "", start(launch_id, *launch))


def advance(connection: sqlite3.Connection, event: Event) -> JobView:
    """Fold ``event`` into its launch's head and return the new view."""
    head = read_head(connection, event.launch_id)
    view = fold(head.view, [event])
    reading = changed(event.body) if event.kind == "reading" else "" if event.kind == "resumed" else head.reading
    row = (event.launch_id, event.seq, head.born or event.seq, int(not view.ended), view.provider, view.recipe, reading, dump_view(view))
    connection.execute(_UPSERT, row)
    return view


def rebuild_heads(connection: sqlite3.Connection) -> int:
    """Empty the cache and fold every event again, in order. Returns the number of events."""
    connection.execute("DELETE FROM heads")
    rows = connection.execute(f"SELECT {EVENT_COLUMNS} FROM events ORDER BY seq").fetchall()  # noqa: S608 - fixed words only
    for row in rows:
        advance(connection, read_event(row))
    return len(rows)
