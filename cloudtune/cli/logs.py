"""``cloudtune logs``: a job's log from a cursor on; ``-f`` stays until the job ends and can be left and taken up again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloudtune.cli.options import JobName, Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudtune.providers.base import LogLine, LogPage


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Stay and print new lines until the job ends.")] = False,
    since_cursor: Annotated[
        str | None, typer.Option("--since-cursor", help="Only lines after this cursor, as --json gave it.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a log."""
    from cloudtune.session import Session
    from cloudtune.verbs.logs import logs as read

    with Session.open() as session:
        pages = read(job, session=session, follow=follow, cursor=since_cursor)
        if as_json:
            _collected(job, pages, since_cursor)
        else:
            _printed(job, pages, since_cursor)


def _collected(job: str, pages: Iterator[LogPage], cursor: str | None) -> None:
    from cloudtune.cli.output import json_result

    lines: list[LogLine] = []
    done = False
    for page in pages:
        lines += page.lines
        cursor, done = page.cursor, page.done
    json_result({"job": job, "lines": lines, "cursor": cursor, "done": done})


def _printed(job: str, pages: Iterator[LogPage], cursor: str | None) -> None:
    """Lines as they come. Ctrl-C leaves the job running and says how to go on after the last printed line."""
    from cloudtune.cli.output import print_out
    from cloudtune.show.text import plain

    try:
        for page in pages:
            print_out("".join(f"{plain(line.text)}\n" for line in page.lines))
            cursor = page.cursor
    except KeyboardInterrupt:
        place = f" --since-cursor {cursor}" if cursor else ""
        raise KeyboardInterrupt(
            f"left; the job goes on\n  come back: cloudtune logs -f {job}{place}\n  stop it:   cloudtune stop {job}"
        ) from None
