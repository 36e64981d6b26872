"""The verbs ``ps`` and ``status``: what the ledger knows, brought up to date. They settle open launches and start nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, JobFailed, UsageError
from cloudtune.job import JobRef, JobState, JobView, LaunchId
from cloudtune.verbs.polling import refresh
from cloudtune.verbs.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudtune.ledger.ledger import Ledger
    from cloudtune.session import Session

RECENT = 20
"""How many of the newest launches ``ps`` shows besides the open ones."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Jobs in the order of launching, newest last; ``problems``: providers that did not answer, their jobs are as last seen."""

    jobs: tuple[JobView, ...]
    problems: tuple[CloudtuneError, ...] = ()

    def __iter__(self) -> Iterator[JobView]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


def ps(session: Session, *, all: bool = False) -> Listing:  # noqa: A002 - the flag's name
    """The open jobs and the 20 newest, or with ``all`` every job. Raises LedgerError."""
    settled = reconcile(session)
    views = session.ledger.views(limit=-1 if all else RECENT)
    if not all:
        shown = {view.id for view in views}
        views = [view for view in session.ledger.views(is_open=True) if view.id not in shown] + views
    found = refresh(views, session)
    return Listing(found.views, (*settled.problems, *found.problems))


def status(job: str, session: Session) -> JobView:
    """The current view of one job. Raises UsageError when ``job`` names none or several, ProviderError when its place is silent."""
    found = refresh([find_job(job, session)], session)
    if found.problems:
        raise found.problems[0]
    return found.views[0]


def find_job(text: str, session: Session, *, settle: bool = True) -> JobView:
    """The job that ``text`` means: an id, the beginning of one, a job URL, a recipe's name, or ``last`` for the newest.

    Raises UsageError when it means none or more than one.
    """
    if settle:
        reconcile(session)
    found = _named(text, session.ledger)
    if len(found) == 1:
        return found[0]
    if not found and text == "last":
        raise UsageError("there are no jobs yet", code="no-such-job", hint="start one with: cloudtune launch RECIPE")
    if not found:
        raise UsageError(f"no job is called {text!r}", code="no-such-job", hint="list the jobs with: cloudtune ps --all")
    names = ", ".join(view.id for view in found[-2:])
    raise UsageError(f"{text!r} means several jobs, such as {names}", code="ambiguous-job", hint="write more of the id, or: last")


def _named(text: str, ledger: Ledger) -> list[JobView]:
    """Every job that ``text`` can mean; an exact id or address means that job alone."""
    if not text:
        return []
    if text == "last":
        return ledger.views(limit=1)
    if "://" in text:
        ref = JobRef.parse(text)
        return [view for view in ledger.views(prefix=ref.name) if view.ref == ref]
    exact = ledger.view(LaunchId(text))
    return [exact] if exact else ledger.views(prefix=text) or ledger.views(recipe=text)


def failure(view: JobView) -> JobFailed:
    """A job that ended without success, as the error to raise or show: its reason and the last lines of its log."""
    reason, _, lines = view.message.partition("\n")
    hint = f"read its log with: cloudtune logs {view.id}"
    if view.state is JobState.INTERRUPTED:
        hint = (
            f"go on from its checkpoint with the same command and --id {view.id}, or bring home what there is: cloudtune collect {view.id}"
        )
    return JobFailed(reason or f"the job is {view.state}", where=view.id, hint=hint, log_tail=lines.splitlines())
