"""``cloudtune ps``: the jobs in the ledger, newest first."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import Json


def ps(
    everything: Annotated[bool, typer.Option("-a", "--all", help="All jobs, not only the active ones and the newest 20.")] = False,
    as_json: Json = False,
) -> None:
    """List jobs."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.jobs import ps as find

    session = Session.open()
    jobs = find(session, all=everything)
    if as_json:
        json_result({"jobs": jobs})
        return
    from cloudtune.show.jobs import job_table
    from cloudtune.show.text import stdout_page

    result(job_table(jobs, stdout_page(), session.clock.now()))
