"""``cloudtune launch``: show plan and price, ask, start, follow, bring the result home.

Asks before money can be spent; a job on this machine costs nothing and starts at once. ``--detach`` returns as
soon as the job is accepted. Ctrl-C while following detaches: the job goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudtune.cli.options import Json, Provider, Sets
from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from cloudtune.job import JobView
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session


def launch(
    source: Annotated[Path, typer.Argument(metavar="RECIPE|PLAN", help="A recipe, or a plan saved with plan -o.", show_default=False)],
    provider: Provider = None,
    sets: Sets = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask before spending.")] = False,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return the job's address as soon as it is accepted.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Rehearse the job here with your data and a shrunken model; spends nothing.")
    ] = False,
    launch_id: Annotated[
        str | None, typer.Option("--id", help="Your own job id; the same id twice is one job.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan, ask, launch, follow, collect."""
    from cloudtune.cli.output import chatter
    from cloudtune.cli.planning import recipe_or_plan
    from cloudtune.session import Session
    from cloudtune.verbs.launch import launch as start

    with Session.open() as session:
        plan = recipe_or_plan(source, provider=provider, sets=sets or (), session=session)
        if dry_run:
            from cloudtune.cli.dryrun import rehearse_plan

            rehearse_plan(plan, session, as_json=as_json)
            return
        _show_plan(plan, to_stderr=as_json)
        if not yes:
            _ask(plan)
        view = start(plan, session=session, launch_id=launch_id, progress=lambda text: chatter(f"  {text}"))
        if detach:
            _detached(view, as_json)
        else:
            _follow(view, session, as_json)


def _show_plan(plan: Plan, *, to_stderr: bool) -> None:
    from cloudtune.cli.output import chatter, result
    from cloudtune.show.tables import plan_lines
    from cloudtune.show.text import stderr_page, stdout_page

    lines = [*plan_lines(plan, stderr_page() if to_stderr else stdout_page()), ""]
    if to_stderr:
        chatter("\n".join(lines))
    else:
        result(lines)


def _ask(plan: Plan) -> None:
    """Ask before money can be spent; default no. Raises UsageError when nobody can answer or the answer is no."""
    from cloudtune.units import usd

    if plan.chosen.purchase == "owned":
        return
    if not sys.stdin.isatty():
        raise UsageError("launching costs money and nobody is here to say yes", hint="add --yes", code="needs-yes")
    price = f"about {usd(plan.usd)} (at most {usd(plan.usd_high)})" if plan.chosen.usd_per_hour else "an unknown price"
    question = f"Launch on {plan.chosen.provider} for {price}?"
    if not typer.confirm(question, default=False, err=True):
        raise UsageError("not launched; nothing was spent", code="declined")


def _detached(view: JobView, as_json: bool) -> None:
    from cloudtune.cli.output import json_result, result

    if as_json:
        json_result({"job": view})
        return
    result(
        [
            f"{view.id} {view.state}",
            f"  address  {view.ref}",
            f"  follow   cloudtune logs -f {view.id}",
            f"  stop     cloudtune stop {view.id}",
        ]
    )


def _follow(view: JobView, session: Session, as_json: bool) -> None:
    from cloudtune.cli.output import chatter, json_result, result
    from cloudtune.cli.watch import demand_success, watch
    from cloudtune.show.report import collected_lines
    from cloudtune.show.text import stdout_page
    from cloudtune.verbs.collect import collect
    from cloudtune.verbs.jobs import status

    chatter(f"{view.id} is on its way; Ctrl-C leaves it running")
    demand_success(watch(view.id, session=session, quiet=as_json))
    collected = collect(view.id, session=session)
    if as_json:
        json_result({"job": status(view.id, session), "collected": collected})
        return
    result(["", *collected_lines(collected, stdout_page(), str(Path.cwd()))])
