"""The verb ``launch``: a plan becomes a job. Every effect follows a durable record of the intention.

    preflight → stage → ledger.intend(launch id, plan, request) → submit → ledger.confirm

While it works, the launcher holds the file lock ``<home>/launching/<launch id>.lock``. A launcher that dies drops it,
and the next command that reads jobs asks the provider what became of the launch (verbs/reconcile.py). A submit is
never repeated blindly: after an uncertain answer the provider is asked, with ``find``, whether it arrived.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, UsageError
from cloudtune.filelock import held
from cloudtune.job import JobState, JobView, LaunchId, new_launch_id, parse_launch_id
from cloudtune.ledger.ledger import Launch
from cloudtune.verbs.reconcile import launching_lock
from cloudtune.verbs.render import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.job import JobRef
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Place, Request
    from cloudtune.session import Session

_PATIENCE_SECONDS = 2.0
"""A lock that is held for longer belongs to a launcher at work, not to a process that was just looking."""


def launch(plan: Plan, *, session: Session, launch_id: str | None = None, progress: Callable[[str], None] | None = None) -> JobView:
    """Start the job of ``plan`` and return its view as soon as the provider has it.

    Launching one plan twice with one ``launch_id`` is one job; a job that was interrupted goes on from its checkpoint.
    ``progress`` hears one line per step. Raises CloudtuneError; a job that was refused is closed in the ledger.
    """
    chosen = parse_launch_id(launch_id) if launch_id is not None else new_launch_id(plan.recipe.name)
    known = session.ledger.view(chosen)
    if known is not None and known.ref is not None and not _may_go_on(known):
        return known
    lock_path = launching_lock(session, chosen)
    with held(lock_path, session.clock, _PATIENCE_SECONDS) as lock:
        if lock is None:
            raise UsageError(f"{chosen} is being launched by another process", code="launching", hint="see it with: cloudtune ps")
        return _launch(plan, chosen, session, progress or (lambda _: None))


def _may_go_on(view: JobView) -> bool:
    return view.state is JobState.INTERRUPTED and view.ended


def _launch(plan: Plan, launch_id: LaunchId, session: Session, say: Callable[[str], None]) -> JobView:
    place = session.place(plan.chosen.provider)
    say("checking")
    _preflight(place, plan)
    say("staging")
    staged = place.stager.stage(render(plan), plan, say)
    request = place.build_request(plan, staged, launch_id)
    view = session.ledger.intend(_intention(plan, request), output_dir=str(Path.cwd() / plan.recipe.output.dir))
    if view.state is JobState.FAILED:
        raise UsageError(f"the launch {launch_id} was given up: {view.message}", code="launch-given-up", hint="launch without a job id")
    if view.ref is not None:
        session.ledger.append(launch_id, "resumed", {})
    say("submitting")
    return session.ledger.confirm(launch_id, _submit(place, request, session))


def _preflight(place: Place, plan: Plan) -> None:
    problems = place.preflight.check(plan) if place.preflight else ()
    if not problems:
        return
    first = problems[0]
    if len(problems) > 1:
        first.hint = f"{first.hint}; and {len(problems) - 1} more: {'; '.join(problem.what for problem in problems[1:])}"
    raise first


def _intention(plan: Plan, request: Request) -> Launch:
    return Launch(
        id=request.launch_id,
        provider=request.provider,
        recipe=plan.recipe.name,
        plan=plan.model_dump_json(),
        request=json.dumps(dict(request.body), sort_keys=True, separators=(",", ":")),
        usd_per_hour=plan.chosen.usd_per_hour,
        nodes=plan.layout.nodes,
    )


def _submit(place: Place, request: Request, session: Session) -> JobRef:
    """Submit once. After an answer that leaves it open whether the job exists, ask; after a clear no, close the launch."""
    try:
        return place.jobs.submit(request)
    except CloudtuneError as error:
        if error.retryable:
            ref = place.jobs.find(request.launch_id)
            if ref is not None:
                return ref
            raise  # the intention stays open: reconcile settles it once the provider can be asked for certain
        session.ledger.append(request.launch_id, "abandoned", {"message": error.what}, key="abandoned")
        raise
