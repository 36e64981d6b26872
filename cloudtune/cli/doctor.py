"""``cloudtune doctor``: what is installed, what is missing for what, and where each setting came from."""

from __future__ import annotations

import typer

from cloudtune.cli.options import Json, Provider


def doctor(provider: Provider = None, as_json: Json = False) -> None:
    """Diagnose; exit 4 when something keeps cloudtune from working."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.doctor import doctor as look

    with Session.open() as session:
        diagnosis = look(session, provider=provider)
    if as_json:
        json_result({"healthy": diagnosis.healthy, "checks": diagnosis.checks, "settings": diagnosis.settings})
    else:
        from cloudtune.show.doctor import diagnosis_lines
        from cloudtune.show.text import stdout_page

        result(diagnosis_lines(diagnosis, stdout_page()))
    if not diagnosis.healthy:
        raise typer.Exit(4)
