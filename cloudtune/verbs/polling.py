"""One round of polling for any number of jobs: one call per provider, what changed goes into the ledger, views come back.

Two processes may poll the same job; the ledger keeps each change once. It stops nothing and sleeps never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cloudtune.job import JobRef, JobView, Reading
    from cloudtune.session import Session


@dataclass(frozen=True, slots=True)
class Round:
    """The views in the order asked for, and the providers' errors; a job whose provider failed keeps its last view."""

    views: tuple[JobView, ...]
    problems: tuple[CloudtuneError, ...] = ()


def refresh(views: Iterable[JobView], session: Session) -> Round:
    """Ask the providers about the jobs among ``views`` that have not ended. Raises LedgerError only."""
    asked = list(views)
    by_provider: dict[str, list[JobView]] = {}
    for view in asked:
        if view.ref is not None and not view.ended:
            by_provider.setdefault(view.provider, []).append(view)
    fresh: dict[str, JobView] = {}
    problems: list[CloudtuneError] = []
    for provider, jobs in by_provider.items():
        try:
            readings = session.place(provider).jobs.poll([_ref(view) for view in jobs])
        except CloudtuneError as error:
            problems.append(error)
            continue
        recorded = session.ledger.record([(view.id, reading) for view, reading in zip(jobs, readings, strict=True)])
        fresh.update({view.id: _with_numbers(view, reading) for view, reading in zip(recorded, readings, strict=True)})
    return Round(tuple(fresh.get(view.id, view) for view in asked), tuple(problems))


def _ref(view: JobView) -> JobRef:
    if view.ref is None:
        raise ValueError(f"{view.id} has no reference yet")
    return view.ref


def _with_numbers(view: JobView, reading: Reading) -> JobView:
    """The recorded view with the reading's newest numbers; the ledger keeps neither loss curves nor numbers that only tick."""
    seconds = view.billable_seconds if reading.billable_seconds is None else reading.billable_seconds
    return replace(view, progress=reading.progress or view.progress, billable_seconds=seconds)
