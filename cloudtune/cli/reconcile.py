"""``cloudtune reconcile``: settle launches whose launcher died. Every command that reads jobs does it quietly; this one reports."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import Json


def reconcile(
    adopt: Annotated[bool, typer.Option("--adopt", help="Also enter jobs that a provider knows and the ledger does not.")] = False,
    as_json: Json = False,
) -> None:
    """Settle and report."""
    from cloudtune.cli.output import json_result, result, warn
    from cloudtune.session import Session
    from cloudtune.verbs.reconcile import reconcile as settle

    with Session.open() as session:
        settled = settle(session, adopt=adopt)
    if as_json:
        from cloudtune.show.errors import error_body

        names = ("confirmed", "abandoned", "waiting", "adopted")
        json_result({**{name: getattr(settled, name) for name in names}, "problems": [error_body(item) for item in settled.problems]})
        return
    from cloudtune.show.jobs import reconciled_lines
    from cloudtune.show.text import stdout_page

    warn(settled.problems)
    result(reconciled_lines(settled, stdout_page()))
