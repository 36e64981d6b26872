"""``cloudtune ps``: the jobs in the ledger, newest last, nearest to the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtune.cli.options import Json


def ps(
    everything: Annotated[bool, typer.Option("-a", "--all", help="All jobs, not only the active ones and the newest 20.")] = False,
    as_json: Json = False,
) -> None:
    """List jobs; a provider that does not answer is a warning, its jobs are shown as last seen."""
    from cloudtune.cli.output import json_result, result, warn
    from cloudtune.session import Session
    from cloudtune.verbs.jobs import ps as find

    with Session.open() as session:
        listing = find(session, all=everything)
        now = session.clock.now()
    if as_json:
        from cloudtune.show.errors import error_body

        json_result({"jobs": listing.jobs, "problems": [error_body(problem) for problem in listing.problems]})
        return
    from cloudtune.show.jobs import job_table
    from cloudtune.show.text import stdout_page

    warn(listing.problems)
    result(job_table(listing.jobs, stdout_page(), now, str(Path.cwd())))
