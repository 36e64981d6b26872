"""``cloudtune plan``: what it will take and cost, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtune.cli.options import Json, Provider, RecipePath, Sets


def plan(
    recipe: RecipePath,
    provider: Provider = None,
    sets: Sets = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Save the plan as JSON; launch takes it as it is.")] = None,
    as_json: Json = False,
) -> None:
    """Plan, print, and save when asked."""
    from cloudtune.cli.output import chatter, json_result, result, write_text
    from cloudtune.cli.planning import plan_recipe
    from cloudtune.session import Session

    with Session.open() as session:
        made = plan_recipe(recipe, provider=provider, sets=sets or (), session=session)
    if output is not None:
        write_text(output, made.model_dump_json(indent=2) + "\n")
        chatter(f"saved to {output}; launch it with: cloudtune launch {output}")
    if as_json:
        json_result(made)
        return
    from cloudtune.show.tables import plan_lines
    from cloudtune.show.text import stdout_page

    result(plan_lines(made, stdout_page()))
