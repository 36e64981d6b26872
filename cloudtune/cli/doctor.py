"""``cloudtune doctor``: what is installed, what is missing for what, and where each setting came from."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import Json, Place


def doctor(
    provider: Place = None,
    print_policy: Annotated[
        bool, typer.Option("--print-policy", help="Print the least rights that --provider aws or gcp needs, to paste, and end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Diagnose; exit 4 when something keeps cloudtune from working."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.doctor import doctor as look
    from cloudtune.verbs.doctor import needed_policies

    with Session.open() as session:
        if print_policy:
            json_result(needed_policies(session, provider))
            return
        diagnosis = look(session, provider=provider)
    if as_json:
        json_result({"healthy": diagnosis.healthy, "checks": diagnosis.checks, "settings": diagnosis.settings})
    else:
        from cloudtune.show.doctor import diagnosis_lines
        from cloudtune.show.text import stdout_page

        result(diagnosis_lines(diagnosis, stdout_page()))
    if not diagnosis.healthy:
        raise typer.Exit(4)
