"""Following a job until it ends. Ctrl-C leaves the job running and says how to come back. Stops nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cloudtune.errors import JobFailed

if TYPE_CHECKING:
    from cloudtune.job import JobView, LaunchId
    from cloudtune.session import Session

POLL_SECONDS = 1.0


class Detached(KeyboardInterrupt):
    """Ctrl-C while following ``launch_id``: the job goes on."""

    def __init__(self, launch_id: LaunchId) -> None:
        super().__init__(
            f"detached; {launch_id} goes on\n  come back: cloudtune logs -f {launch_id}\n  stop it:   cloudtune stop {launch_id}"
        )


def watch(launch_id: LaunchId, *, session: Session, quiet: bool = False) -> JobView:
    """Show the job until it ends and return its last view. ``quiet`` keeps stdout free: plain lines go to stderr."""
    from cloudtune.show.live import PlainLines, follower
    from cloudtune.verbs.jobs import status
    from cloudtune.verbs.track import track

    shown = PlainLines(sys.stderr) if quiet else follower(sys.stdout, session.clock.now)
    try:
        with shown as show:
            for view in track([launch_id], session=session, interval=POLL_SECONDS):
                show(view)
    except KeyboardInterrupt:
        raise Detached(launch_id) from None
    return status(launch_id, session)


def demand_success(view: JobView, session: Session) -> None:
    """Raise JobFailed with the log's last lines unless the job did all its work."""
    if view.state in ("succeeded", "collected"):
        return
    reason = view.message.partition("\n")[0] or view.stop_reason or f"it ended as {view.state}"
    raise JobFailed(
        f"the job {view.state}: {reason}",
        where=str(view.ref or view.id),
        hint=f"the whole log: cloudtune logs {view.id}; partial results: cloudtune collect {view.id}",
        log_tail=_log_tail(view, session),
    )


def _log_tail(view: JobView, session: Session) -> list[str]:
    from cloudtune.verbs.logs import logs

    return [line.text for page in logs(view.id, session=session, follow=False, cursor=None) for line in page.lines][-20:]
