"""``cloudtune status``: everything known of one job."""

from __future__ import annotations

from cloudtune.cli.options import JobName, Json


def status(job: JobName, as_json: Json = False) -> None:
    """Show one job."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.session import Session
    from cloudtune.verbs.jobs import status as find

    with Session.open() as session:
        view = find(job, session)
        now = session.clock.now()
    if as_json:
        json_result(view)
        return
    from cloudtune.show.jobs import job_lines
    from cloudtune.show.text import stdout_page

    result(job_lines(view, stdout_page(), now))
