"""``cloudtune logs``: a job's log from a cursor on; ``-f`` stays until the job ends and can be left and taken up again."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import JobId, Json


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Stay and print new lines until the job ends.")] = False,
    since_cursor: Annotated[
        str | None, typer.Option("--since-cursor", help="Only lines after this cursor, as --json gave it.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a log."""
    import sys

    from cloudtune.cli.output import json_result
    from cloudtune.session import Session
    from cloudtune.show.text import plain
    from cloudtune.verbs.logs import logs as read

    lines = []
    cursor, done = since_cursor or "", False
    for page in read(job, session=Session.open(), follow=follow, cursor=since_cursor):
        cursor, done = page.cursor, page.done
        if as_json:
            lines += page.lines
            continue
        sys.stdout.write("".join(f"{plain(line.text)}\n" for line in page.lines))
        sys.stdout.flush()
    if as_json:
        json_result({"job": job, "lines": lines, "cursor": cursor, "done": done})
