"""``cloudtune rehearse``: a launch against a local stand-in of the cloud; spends nothing. Exit 0, or 1 when a step fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cloudtune.cli.options import Json, Provider, Sets


def rehearse(
    source: Annotated[Path, typer.Argument(metavar="RECIPE|PLAN", help="A recipe, or a plan saved with plan -o.", show_default=False)],
    provider: Provider = None,
    sets: Sets = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Taken as launch takes it; a rehearsal never asks.")] = False,  # noqa: ARG001
    launch_id: Annotated[str | None, typer.Option("--id", help="Your own job id.", show_default=False)] = None,
    mode: Annotated[
        Literal["process", "container"], typer.Option("--mode", help="How the job runs: plain processes, or this machine's engine.")
    ] = "process",
    as_json: Json = False,
) -> None:
    """Plan, launch on the stand-in, take the machine away, resume, collect, load."""
    from cloudtune.cli.dryrun import progress
    from cloudtune.cli.output import json_result, result
    from cloudtune.cli.planning import recipe_or_plan
    from cloudtune.session import Session
    from cloudtune.show.rehearse import rehearsal_lines
    from cloudtune.show.text import stdout_page
    from cloudtune.verbs.rehearse import rehearse as start
    from cloudtune.verbs.rehearse import require_cloud

    require_cloud(provider)
    with Session.open() as session:
        plan = recipe_or_plan(source, provider=provider, sets=sets or (), session=session)
        try:
            with progress() as say:
                run = start(plan, session=session, mode=mode, launch_id=launch_id, progress=say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the stand-in and its job have ended with it, and nothing was spent") from None
    if as_json:
        json_result({"rehearsal": run, "ok": run.ok})
    else:
        result(rehearsal_lines(run, stdout_page()))
    if not run.ok:
        raise typer.Exit(1)
