"""``cloudtune estimate``: memory, time and price on every machine; nothing is chosen, nothing has to fit."""

from __future__ import annotations

from cloudtune.cli.options import Json, Provider, RecipePath, Sets


def estimate(recipe: RecipePath, provider: Provider = None, sets: Sets = None, as_json: Json = False) -> None:
    """Estimate and print."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.estimate import estimate as reckon
    from cloudtune.verbs.validate import validate

    with Session.open() as session:
        report = reckon(validate(recipe, overrides=sets or ()), provider=provider, session=session)
    if as_json:
        json_result(report)
        return
    from cloudtune.show.tables import estimate_lines
    from cloudtune.show.text import stdout_page

    result(estimate_lines(report, stdout_page()))
