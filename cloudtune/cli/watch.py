"""Following a job until it ends. Ctrl-C leaves the job running and says how to come back. Stops nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

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


def demand_success(view: JobView) -> None:
    """Raise JobFailed with the log's last lines unless the job did all its work."""
    from cloudtune.verbs.jobs import failure

    if view.state not in ("succeeded", "collected"):
        raise failure(view)
