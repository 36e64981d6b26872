"""``cloudtune launch --dry-run``: rehearse the job here and show what that proves. Exit 0, 1 (it fails) or 2 (wrong data)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

FAILED, BAD_DATA = 1, 2


def rehearse_plan(plan: Plan, session: Session, *, as_json: bool) -> None:
    """Run and show the dry run; ends the command with its exit code."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.show.dryrun import dry_run_lines
    from cloudtune.show.text import stdout_page
    from cloudtune.verbs.dryrun import dry_run

    with progress() as say:
        run = dry_run(plan, session=session, progress=say)
    if as_json:
        json_result({"dry_run": run, "ok": run.ok, "defects": run.defects})
    else:
        result(dry_run_lines(run, stdout_page()))
    if not run.ok:
        raise typer.Exit(BAD_DATA if run.examination and run.examination.wrong else FAILED)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """One moving line on a terminal (a build has hundreds); plain lines elsewhere."""
    from cloudtune.cli.output import chatter

    if not sys.stderr.isatty():
        yield lambda text: chatter(f"  {text}")
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("rehearsing") as status:
        yield lambda text: status.update(escape(text[: max(20, console.width - 4)]))
