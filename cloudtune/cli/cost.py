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
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.cost import cost as reckon

    with Session.open() as session:
        costs = reckon(session, by=by)
    if as_json:
        json_result(costs)
        return
    from cloudtune.show.jobs import cost_lines
    from cloudtune.show.text import stdout_page

    result(cost_lines(costs, stdout_page()))
