"""``cloudtune cost``: what the jobs of the ledger cost, at the prices they were launched with."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cloudtune.cli.options import Json


def cost(
    by: Annotated[Literal["job", "recipe", "month"], typer.Option("--by", help="One row per job, recipe or month.")] = "job",
    as_json: Json = False,
) -> None:
    """Show the costs."""
    from cloudtune.cli.output import json_result, result, warn
    from cloudtune.session import Session
    from cloudtune.verbs.cost import cost as reckon

    with Session.open() as session:
        costs = reckon(session, by=by)
    if as_json:
        from cloudtune.show.errors import error_body

        body = {"by": costs.by, "rows": costs.rows, "total": costs.total}
        json_result({**body, "problems": [error_body(problem) for problem in costs.problems]})
        return
    from cloudtune.show.jobs import cost_lines
    from cloudtune.show.text import stdout_page

    warn(costs.problems)
    result(cost_lines(costs, stdout_page()))
