"""The verb ``track``: follows any number of jobs in one process until they have ended.

    poll every provider once → ledger → guard(view, plan) → stop → yield what changed → sleep

Tracking is a convenience: the job runs without it, several trackers may follow one job, and whoever comes back later
sees the same. The pause grows while nothing happens. Answers worth another try are waited out; others are raised.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from cloudtune.job import JobState, JobView, LaunchId
from cloudtune.verbs.guard import Stop, guard
from cloudtune.verbs.jobs import find_job
from cloudtune.verbs.plans import load_plan
from cloudtune.verbs.polling import refresh
from cloudtune.verbs.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

SHORTEST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
_GROWTH = 1.4
_LOST_ROUNDS = 5
"""A job that its provider denies so often in a row is given up by the tracker (not by the ledger)."""


def track(jobs: str | Sequence[str], *, session: Session, interval: float | None = None) -> Iterator[JobView]:
    """Yield each job's view at once and then whenever it changes; ends when every job has ended.

    ``jobs``: one or more of what ``find_job`` understands. ``interval``: fixed pause in seconds instead of the adaptive one.
    Raises UsageError for an unknown job, and errors of a provider that another try cannot cure.
    """
    tracker = Tracker(jobs, session, interval)
    while True:
        yield from tracker.round()
        if tracker.done:
            return
        session.clock.sleep(tracker.pause)


async def atrack(jobs: str | Sequence[str], *, session: Session, interval: float | None = None) -> AsyncIterator[JobView]:
    """``track`` for asyncio: providers are asked in a worker thread, the pause is the event loop's."""
    tracker = await asyncio.to_thread(Tracker, jobs, session, interval)
    while True:
        for view in await asyncio.to_thread(tracker.round):
            yield view
        if tracker.done:
            return
        await asyncio.sleep(tracker.pause)


class Tracker:
    """What is followed, what was seen last, and how long to wait before the next round."""

    def __init__(self, jobs: str | Sequence[str], session: Session, interval: float | None = None) -> None:
        self._session = session
        self._interval = interval
        names = [jobs] if isinstance(jobs, str) else list(jobs)
        self._seen: dict[LaunchId, JobView | None] = {find_job(name, session).id: None for name in names}
        self._plans: dict[LaunchId, Plan | None] = {}
        self._changed_at: dict[LaunchId, float] = {}
        self._lost: dict[LaunchId, int] = {}
        self._stops_sent: set[LaunchId] = set()
        self.pause = interval or SHORTEST_PAUSE

    @property
    def done(self) -> bool:
        """Every job has ended, or its provider has denied it long enough."""
        return all(view is not None and (view.ended or self._is_lost(view)) for view in self._seen.values())

    def round(self) -> list[JobView]:
        """Poll everything once; the views that changed, in the order of the jobs."""
        ledger = self._session.ledger
        known = [view for job in self._seen if (view := ledger.view(job)) is not None]
        if any(view.ref is None and not view.ended for view in known):
            reconcile(self._session)
        found = refresh(known, self._session)
        for problem in found.problems:
            if not problem.retryable:
                raise problem
        changed = [view for view in found.views if self._note(view)]
        for view in found.views:
            self._watch(view)
        self._set_pause(active=bool(changed), troubled=bool(found.problems))
        return changed

    def _note(self, view: JobView) -> bool:
        """Remember ``view``; whether it says something new."""
        if view.state is JobState.LOST:
            self._lost[view.id] = self._lost.get(view.id, 0) + 1
        else:
            self._lost.pop(view.id, None)
        before = self._seen[view.id]
        new = before is None or _without_time(before) != _without_time(view)
        if new:
            self._changed_at[view.id] = self._session.clock.monotonic()
            self._seen[view.id] = view
        return new

    def _watch(self, view: JobView) -> None:
        """Ask the guard, and deliver a stop that was requested, here or by a process that died before it could."""
        plan = self._plan(view.id)
        if plan is not None and not view.ended:
            quiet = self._session.clock.monotonic() - self._changed_at[view.id]
            verdict = guard(view, plan, quiet_seconds=quiet)
            if isinstance(verdict, Stop):
                view = self._session.ledger.append(view.id, "stop_requested", {"reason": verdict.reason})
        if view.stop_requested and not view.ended and view.ref is not None and view.id not in self._stops_sent:
            self._session.place(view.provider).jobs.stop(view.ref)
            self._stops_sent.add(view.id)

    def _plan(self, launch_id: LaunchId) -> Plan | None:
        if launch_id not in self._plans:
            self._plans[launch_id] = load_plan(launch_id, self._session)
        return self._plans[launch_id]

    def _is_lost(self, view: JobView) -> bool:
        return self._lost.get(view.id, 0) >= _LOST_ROUNDS

    def _set_pause(self, *, active: bool, troubled: bool) -> None:
        if self._interval is not None:
            self.pause = self._interval
        elif active and not troubled:
            self.pause = SHORTEST_PAUSE
        else:
            self.pause = min(LONGEST_PAUSE, self.pause * _GROWTH)


def _without_time(view: JobView) -> JobView:
    return replace(view, updated=None, billable_seconds=None)
