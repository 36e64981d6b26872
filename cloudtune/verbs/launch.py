"""The verb ``launch``: a plan becomes a job. Every effect follows a durable record of the intention.

    preflight → stage → ledger.intend(launch id, plan, request) → submit → ledger.confirm

While it works, the launcher holds the file lock ``<home>/launching/<launch id>.lock``. A launcher that dies drops it,
and the next command that reads jobs asks the provider what became of the launch (verbs/reconcile.py). A submit is
never repeated blindly: after an uncertain answer the provider is asked, with ``find``, whether it arrived. The same
command again goes on with a launch that was left open (an expired login, no answer, a launcher that died): one job.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import AuthError, CapacityError, CloudtuneError, NotFoundError, NothingFits, ProviderError, RejectedError, UsageError
from cloudtune.filelock import held
from cloudtune.job import JobState, JobView, LaunchId, new_launch_id, parse_launch_id
from cloudtune.ledger.ledger import Launch
from cloudtune.planning.promises import refuse_out_of_reach
from cloudtune.providers.base import Request
from cloudtune.units import usd
from cloudtune.verbs.plans import load_plan
from cloudtune.verbs.reconcile import Patience, launching_lock
from cloudtune.verbs.render import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.job import JobRef
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Place
    from cloudtune.session import Session

NO_LOGIN = "login"
"""Code of the AuthError for a login that is missing or over, as against one that may not do something."""
_LOCK_SECONDS = 2.0
"""A lock that is held for longer belongs to a launcher at work, not to a process that was just looking."""


def launch(plan: Plan, *, session: Session, launch_id: str | None = None, progress: Callable[[str], None] | None = None) -> JobView:
    """Start the job of ``plan`` and return its view as soon as the provider has it.

    Launching one plan twice with one ``launch_id`` is one job; a job that was interrupted goes on from its checkpoint.
    Without one, a launch of the same recipe that was begun and never settled is gone on with. ``progress`` hears one line
    per step. Raises CloudtuneError; a job that was refused is closed in the ledger, and an unsettled launch of the recipe on
    another machine or at another price is not joined by a second job (UsageError ``launch-begun``).
    """
    say = progress or (lambda _: None)
    chosen = parse_launch_id(launch_id) if launch_id is not None else _begun(plan, session) or new_launch_id(plan.recipe.name)
    known = _known(chosen, plan, session)
    if known is not None and known.ref is not None and not _can_resume(known):
        return known
    with held(launching_lock(session, chosen), session.clock, _LOCK_SECONDS) as lock:
        if lock is None:
            raise UsageError(f"{chosen} is being launched by another process", code="launching", hint="see it with: cloudtune ps")
        known = _known(chosen, plan, session)  # again: another process may have launched or resumed it while we waited
        if known is None:
            return _launch(plan, chosen, session, say)
        if known.ref is None:
            return _go_on(known, plan, session, say)
        return _resume(known, session) if _can_resume(known) else known


def _begun(plan: Plan, session: Session) -> LaunchId | None:
    """The newest launch of this recipe that has neither a job nor an end, and whose launcher is gone.

    Raises UsageError when it was begun on another machine or at another price.
    """
    patience = Patience(session.clock)
    for view in reversed(session.ledger.views(is_open=True, recipe=plan.recipe.name)):
        if view.ref is not None or view.provider != plan.chosen.provider:
            continue
        begun = load_plan(view.id, session)
        if begun is None or begun.recipe_digest != plan.recipe_digest:
            continue
        with held(launching_lock(session, view.id), session.clock, patience.left()) as lock:
            if lock is None:
                continue
        if _bought(begun) != _bought(plan):
            raise UsageError(
                f"{view.id}, a launch of this recipe on {begun.chosen.instance} at {usd(begun.chosen.usd_per_hour)} per hour, was begun "
                "and is not settled; it may still become a job",
                code="launch-begun",
                hint=f"settle it with: cloudtune reconcile; or go on with it: cloudtune launch ... --id {view.id}",
            )
        return view.id
    return None


def _bought(plan: Plan) -> tuple[object, ...]:
    """What a yes to a plan was said to."""
    chosen = plan.chosen
    return chosen.region, chosen.instance, chosen.purchase, chosen.usd_per_hour, plan.layout


def _known(launch_id: LaunchId, plan: Plan, session: Session) -> JobView | None:
    """The launch that has this id already; None for a new id. Raises UsageError when it is another recipe's or was given up."""
    view = session.ledger.view(launch_id)
    if view is None:
        return None
    launched = load_plan(launch_id, session)
    if launched is not None and launched.recipe_digest != plan.recipe_digest:
        raise UsageError(
            f"{launch_id} already names another job", code="launch-id-taken", hint="launch without a job id, or with a new one"
        )
    if view.ref is None and view.ended:
        raise UsageError(f"the launch {launch_id} was given up: {view.message}", code="launch-given-up", hint="launch without a job id")
    return view


def _go_on(view: JobView, plan: Plan, session: Session, say: Callable[[str], None]) -> JobView:
    """Settle a launch that was begun: its job if it has arrived, else the very request once more, which can only become one job."""
    place = session.place(view.provider)
    begun = session.ledger.launch(view.id)
    say(f"going on with {view.id}, whose launch was begun and not finished")
    ref = place.jobs.find(view.id)
    if ref is not None:
        return session.ledger.confirm(view.id, ref)
    if begun is None or not begun.request:
        return _launch(plan, view.id, session, say)
    say("submitting")
    return session.ledger.confirm(view.id, _submit(place, Request(view.provider, view.id, json.loads(begun.request)), session))


def _can_resume(view: JobView) -> bool:
    return view.state is JobState.INTERRUPTED and view.ended


def _resume(view: JobView, session: Session) -> JobView:
    """Submit the very request of the first time again; the provider goes on from the checkpoint."""
    launch = session.ledger.launch(view.id)
    if launch is None or not launch.request:
        raise UsageError(f"{view.id} was not launched from here", code="no-request", hint="launch its recipe without a job id")
    session.ledger.append(view.id, "resumed", {})
    request = Request(view.provider, view.id, json.loads(launch.request))
    return session.ledger.confirm(view.id, _submit(session.place(view.provider), request, session))


def _launch(plan: Plan, launch_id: LaunchId, session: Session, say: Callable[[str], None]) -> JobView:
    place = session.place(plan.chosen.provider)
    refuse_out_of_reach(plan.recipe, plan.chosen.provider)
    say("checking")
    _preflight(place, plan)
    say("staging")
    staged = place.stager.stage(render(plan), plan, say)
    request = place.build_request(plan, staged, launch_id)
    session.ledger.intend(_intention(plan, request), output_dir=str(Path.cwd() / plan.recipe.output.dir))
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
    """Submit once. When that fails, find out whether the job exists all the same; a launch that cannot have a job is closed."""
    try:
        return place.jobs.submit(request)
    except _CLEAR_NO as error:
        if isinstance(error, AuthError) and error.code == NO_LOGIN:
            # An earlier try of the same call may have been heard before the login was over, and nobody can be asked now.
            _tell_way_back(error, request.launch_id)
            raise
        _close(request.launch_id, error, session)
        raise
    except CloudtuneError as error:
        ref = _arrived(place, request.launch_id, error, session)
        if ref is None:
            raise
        return ref


def _tell_way_back(error: CloudtuneError, launch_id: LaunchId) -> None:
    error.hint = "; ".join(part for part in (error.hint, f"the same command again goes on with {launch_id}") if part)


_CLEAR_NO = (RejectedError, AuthError, CapacityError, NotFoundError, NothingFits)
"""Answers of a provider that understood the request and did not take it."""


def _arrived(place: Place, launch_id: LaunchId, error: CloudtuneError, session: Session) -> JobRef | None:
    """The job after an uncertain answer. None: it does not exist, or cannot be found yet, and then ``error`` says how to go on."""
    try:
        ref = place.jobs.find(launch_id)
        if ref is None and place.fence is not None:
            ref = place.fence.fence(launch_id)
            if ref is None:
                _close(launch_id, error, session)
                return None
    except ProviderError:
        ref = None
    if ref is None:
        _tell_way_back(error, launch_id)
    return ref


def _close(launch_id: LaunchId, error: CloudtuneError, session: Session) -> None:
    session.ledger.append(launch_id, "abandoned", {"message": error.what}, key="abandoned")
