"""The verb ``logs``: a job's log from the beginning or from a cursor, to its end or for as long as it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, UsageError
from cloudtune.verbs.jobs import find_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudtune.job import JobView
    from cloudtune.providers.base import LogPage
    from cloudtune.session import Session

_SHORTEST_PAUSE = 0.3
_LONGEST_PAUSE = 5.0


def logs(job: str, *, session: Session, follow: bool = False, cursor: str | None = None) -> Iterator[LogPage]:
    """Pages of the log after ``cursor``; each page has the cursor to come back with, so that no line is shown twice.

    Without ``follow`` it ends with what is there now, with ``follow`` when the job has ended and its last line was given.
    Raises UsageError for an unknown job or a place without logs, ProviderError when the log cannot be read.
    """
    view = find_job(job, session)
    pause = _SHORTEST_PAUSE
    while True:
        page = _read(view, session, cursor, patient=follow)
        if page is not None and (page.lines or page.done):
            yield page
            cursor = page.cursor
        if page is not None and page.done:
            return
        if page is not None and page.lines:
            pause = _SHORTEST_PAUSE
            continue  # a full page: more may be there already
        if not follow or (view.ref is None and view.ended):
            return
        session.clock.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.5)
        view = session.ledger.view(view.id) or view


def log_tail(view: JobView, session: Session, lines: int = 20) -> tuple[str, ...]:
    """The last lines of the log as far as it can be read now; empty without one."""
    found: list[str] = []
    for page in logs(view.id, session=session):
        found = [*found, *(line.text for line in page.lines)][-lines:]
    return tuple(found)


def _read(view: JobView, session: Session, cursor: str | None, *, patient: bool) -> LogPage | None:
    """The next page; None for a job that its provider does not have yet, or does not answer about at the moment."""
    source = session.place(view.provider).logs
    if source is None:
        raise UsageError(f"{view.provider} gives no access to logs", code="no-logs")
    if view.ref is None:
        return None
    try:
        return source.read(view.ref, cursor)
    except CloudtuneError as error:
        if patient and error.retryable:
            return None
        raise
