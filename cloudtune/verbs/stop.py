"""The verb ``stop``: asks a job to save what it has and end, and waits for it. Twice is once; partial results are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.job import JobRef, JobState, JobView, Reading
from cloudtune.verbs.jobs import find_job
from cloudtune.verbs.polling import refresh

if TYPE_CHECKING:
    from cloudtune.session import Session

GRACE_SECONDS = 60.0
_MARGIN_SECONDS = 30.0
_PAUSE = 0.2


def stop(
    job: str, *, session: Session, grace_seconds: float | None = None, wait: bool = True, reason: str = "asked by the user"
) -> JobView:
    """Stop ``job`` and return its view: ended, or still ``stopping`` when its provider takes longer or ``wait`` is false.

    ``grace_seconds``: time between the request to save and the end by force, where the provider lets us choose (60 without).
    """
    view = find_job(job, session)
    if not view.state.terminal and view.ref is None:
        raise UsageError(f"{view.id} is just being launched", code="launching", hint="stop it as soon as cloudtune ps shows it queued")
    view = _poll(view, session)
    ref = view.ref
    if view.state.terminal or ref is None:
        return view
    if view.state is JobState.LOST:
        return _give_up(view, ref, session)
    if not view.stop_requested:
        view = session.ledger.append(view.id, "stop_requested", {"reason": reason})
    _send(view, ref, session, grace_seconds)
    return _wait(view, ref, session, grace_seconds) if wait else _poll(view, session)


def _poll(view: JobView, session: Session) -> JobView:
    found = refresh([view], session)
    if found.problems:
        raise found.problems[0]
    return found.views[0]


def _send(view: JobView, ref: JobRef, session: Session, grace_seconds: float | None) -> None:
    place = session.place(view.provider)
    if place.killer is not None:
        place.killer.stop_within(ref, grace_seconds)
    elif grace_seconds is not None:
        raise UsageError(f"{view.provider} has its own grace period", code="no-grace", hint="stop without a grace")
    else:
        place.jobs.stop(ref)


def _wait(view: JobView, ref: JobRef, session: Session, grace_seconds: float | None) -> JobView:
    """Until it has ended. Once the grace is over the stop is sent again: a job without its supervisor needs it."""
    grace = GRACE_SECONDS if grace_seconds is None else grace_seconds
    began, sent_again = session.clock.monotonic(), False
    while not (view := _poll(view, session)).state.terminal:
        waited = session.clock.monotonic() - began
        if waited >= grace and not sent_again:
            _send(view, ref, session, grace_seconds)
            sent_again = True
        if waited >= grace + _MARGIN_SECONDS:
            return view
        session.clock.sleep(_PAUSE)
    return view


def _give_up(view: JobView, ref: JobRef, session: Session) -> JobView:
    """The provider does not know the job any more: nothing is left to stop, and the ledger need not ask again."""
    session.ledger.append(view.id, "stop_requested", {"reason": "the provider does not know the job any more"})
    reading = Reading(ref, JobState.STOPPED, view.native_state, message="given up: its provider does not know the job any more")
    return session.ledger.record([(view.id, reading)])[0]
