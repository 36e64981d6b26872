"""``cloudtune collect``: bring a job's files home; interrupted, it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtune.cli.options import JobName, Json


def collect(
    job: JobName,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the files (default: the recipe's output.dir/JOB).", show_default=False)
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also the checkpoints of a job that failed or was stopped before it wrote its manifest.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch, check, and say what came."""
    from cloudtune.cli.output import chatter, json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.collect import collect as fetch

    with Session.open() as session:
        collected = fetch(job, session=session, to=to, checkpoints=checkpoints, progress=lambda text: chatter(f"  {text}"))
    if as_json:
        json_result(collected)
        return
    from cloudtune.show.report import collected_lines
    from cloudtune.show.text import stdout_page

    result(collected_lines(collected, stdout_page(), str(Path.cwd())))
