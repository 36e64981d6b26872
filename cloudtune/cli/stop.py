"""``cloudtune stop``: end a job; it saves what it has first."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import JobName, Json


def stop(
    job: JobName,
    grace: Annotated[float | None, typer.Option("--grace", min=0, help="Seconds between asking and force.", show_default="60")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Stop one job and show what it is now."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.stop import stop as end

    with Session.open() as session:
        view = end(job, session=session, grace_seconds=grace, wait=wait)
        now = session.clock.now()
    if as_json:
        json_result(view)
        return
    from cloudtune.show.jobs import job_lines
    from cloudtune.show.text import stdout_page

    result(job_lines(view, stdout_page(), now))
    if view.ended:
        result([f"  bring home what it saved: cloudtune collect {view.id}"])
