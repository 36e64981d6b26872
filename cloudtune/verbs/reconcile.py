"""The verb ``reconcile``: settles launches whose launcher died between its intention and its confirmation.

Run quietly by every command that reads jobs; without open intentions it costs one query. It starts no job, ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, LedgerError
from cloudtune.filelock import held
from cloudtune.job import JobRef, JobView, LaunchId, parse_launch_id
from cloudtune.ledger.ledger import Launch
from cloudtune.providers.registry import PROVIDERS

if TYPE_CHECKING:
    from pathlib import Path

    from cloudtune.clock import Clock
    from cloudtune.session import Session

WAIT_SECONDS = 120.0
"""How long a place without a fence gets to show a job that was submitted by a launcher that died."""
GIVEN_UP = "the launcher died before the job started; nothing runs; launch again"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was settled: jobs that turned out to run, launches given up, those still open, and places that did not answer."""

    confirmed: tuple[LaunchId, ...] = ()
    abandoned: tuple[LaunchId, ...] = ()
    waiting: tuple[LaunchId, ...] = ()
    adopted: tuple[LaunchId, ...] = ()
    problems: tuple[CloudtuneError, ...] = ()


class Patience:
    """How long one command waits for the locks of launchers: half a second for all of them together, from the first question on.

    A launcher that is killed while it starts a process lives on in that process, with its lock, until this has become another
    program. Many launchers at work must not add up to a long wait.
    """

    SECONDS = 0.5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline: float | None = None

    def left(self) -> float:
        """Seconds that are left."""
        if self._deadline is None:
            self._deadline = self._clock.monotonic() + self.SECONDS
        return max(0.0, self._deadline - self._clock.monotonic())


def launching_lock(session: Session, launch_id: LaunchId) -> Path:
    """The file that a live launcher holds locked. Raises LedgerError when its folder cannot be made."""
    folder = session.settings.home / "launching"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"cloudtune's home cannot be written: {error.strerror}",
            where=str(folder),
            hint="set CLOUDTUNE_HOME to a folder that you can write to",
        ) from error
    return folder / f"{launch_id}.lock"


def reconcile(session: Session, *, adopt: bool = False) -> Reconciled:
    """Settle every unconfirmed launch whose launcher is gone.

    ``adopt``: also enter jobs that a place knows and the ledger does not, as after a ledger was lost.
    """
    settled: dict[str, list[LaunchId]] = {"confirmed": [], "abandoned": [], "waiting": []}
    problems: list[CloudtuneError] = []
    patience = Patience(session.clock)
    for view in session.ledger.views(is_open=True):
        if view.ref is not None:
            continue
        try:
            settled[_settle(view, session, patience)].append(view.id)
        except CloudtuneError as error:
            settled["waiting"].append(view.id)
            problems.append(error)
    _sweep(session)
    adopted = _adopt(session, problems) if adopt else ()
    return Reconciled(tuple(settled["confirmed"]), tuple(settled["abandoned"]), tuple(settled["waiting"]), tuple(adopted), tuple(problems))


def _settle(view: JobView, session: Session, patience: Patience) -> str:
    with held(launching_lock(session, view.id), session.clock, patience.left()) as lock:
        if lock is None:
            return "waiting"  # its launcher is alive, or another process is settling it
        fresh = session.ledger.view(view.id)
        if fresh is None or fresh.ref is not None or fresh.ended:
            return "confirmed"
        return _ask(view, session)


def _ask(view: JobView, session: Session) -> str:
    place = session.place(view.provider)
    ref = place.jobs.find(view.id)
    if ref is None and not _waited(view, session, place.settle_seconds if place.fence else max(WAIT_SECONDS, place.settle_seconds)):
        return "waiting"
    if ref is None and place.fence is not None:
        ref = place.fence.fence(view.id)
    if ref is None:
        session.ledger.append(view.id, "abandoned", {"message": GIVEN_UP}, key="abandoned")
        return "abandoned"
    session.ledger.confirm(view.id, ref)
    return "confirmed"


def _waited(view: JobView, session: Session, seconds: float) -> bool:
    # The absolute value: a clock that was set back must not leave a launch open for ever.
    return seconds <= 0 or (view.created is not None and abs((session.clock.now() - view.created).total_seconds()) >= seconds)


def _sweep(session: Session) -> None:
    """Remove the lock files of launchers that died before they had written anything."""
    for path in (session.settings.home / "launching").glob("*.lock"):
        with held(path, session.clock):
            pass


def _adopt(session: Session, problems: list[CloudtuneError]) -> list[LaunchId]:
    refs: list[JobRef] = []
    for name in PROVIDERS:
        try:
            place = session.place(name)
            refs += place.inventory.inventory() if place.inventory else ()
        except CloudtuneError as error:
            if error.code != "extra-missing":  # a place that is not installed has no jobs of this home
                problems.append(error)
    return [_enter(ref, session) for ref in refs if session.ledger.view(parse_launch_id(ref.name)) is None]


def _enter(ref: JobRef, session: Session) -> LaunchId:
    launch_id = parse_launch_id(ref.name)
    recipe = launch_id.rpartition("-")[0] or launch_id
    session.ledger.intend(Launch(launch_id, ref.provider, recipe, plan="", request=""))
    session.ledger.confirm(launch_id, ref)
    return launch_id
