"""The folder of one local job: where each file lies, and what can be seen there. Reads only; decides nothing.

<home>/local/<launch id>/
    lock            held (flock) by everything of the job that is alive
    request.json    the request as accepted
    started.json    written before the trainer is started; says who supervises
    stop.json       asks the supervisor to end the job
    exit.json       how it ended
    fenced.json     the launch was given up before it started: it must not start any more
    log.txt         what the trainer printed
    ml/             the contract's root: input/ checkpoints/ output/ model/
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudtune.filelock import is_held
from cloudtune.providers.local import supervisor

if TYPE_CHECKING:
    from cloudtune.job import LaunchId

PROVIDER = "local"
THIS_MACHINE = "this-machine"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths of one job."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / supervisor.LOCK

    @property
    def request(self) -> Path:
        return self.path / supervisor.REQUEST

    @property
    def started(self) -> Path:
        return self.path / supervisor.STARTED

    @property
    def stop(self) -> Path:
        return self.path / supervisor.STOP

    @property
    def exit(self) -> Path:
        return self.path / supervisor.EXIT

    @property
    def fenced(self) -> Path:
        return self.path / supervisor.FENCED

    @property
    def log(self) -> Path:
        return self.path / supervisor.LOG

    @property
    def own_log(self) -> Path:
        return self.path / supervisor.OWN_LOG

    @property
    def root(self) -> Path:
        return self.path / supervisor.ROOT

    @property
    def inputs(self) -> Path:
        return self.root / "input" / "data"

    @property
    def metrics(self) -> Path:
        return self.root / supervisor.METRICS

    @property
    def failure(self) -> Path:
        return self.root / supervisor.FAILURE

    @property
    def outputs(self) -> Path:
        return self.root / "model"

    @property
    def manifest(self) -> Path:
        return self.root / supervisor.MANIFEST

    def alive(self) -> bool:
        """Whether anything of the job runs: someone holds its lock."""
        return is_held(self.lock)


def job_folder(home: Path, launch_id: LaunchId) -> JobFolder:
    """The folder of ``launch_id`` (which ``parse_launch_id`` has accepted: no slash, no dots)."""
    return JobFolder(home / "local" / launch_id)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a job at one moment."""

    known: bool
    """The folder exists."""
    alive: bool
    started: dict[str, Any] | None
    exit: dict[str, Any] | None
    """How the newest attempt ended."""
    stop_asked: bool
    fenced: bool
    can_go_on: bool
    """Nothing is alive, it ended against its will, and a checkpoint is there."""


def look(folder: JobFolder) -> Sight:
    """What is there now. The lock is looked at first: who is gone has written down before how he ended."""
    sight = _glance(folder)
    if sight.started is not None and sight.exit is None and not sight.alive:
        sight = _glance(folder)  # it may have been started between the look at the lock and at the file
    return sight


def _glance(folder: JobFolder) -> Sight:
    alive = folder.alive()
    started, ended = supervisor.read_json(folder.started), supervisor.read_json(folder.exit)
    if started is None or (ended is not None and ended["attempt"] != started["attempt"]):
        ended = None
    gone = started is not None and not alive
    return Sight(
        known=folder.path.is_dir(),
        alive=alive,
        started=started,
        exit=ended,
        stop_asked=folder.stop.exists(),
        fenced=folder.fenced.exists(),
        can_go_on=gone and supervisor.cut_off(folder.path, int(started["attempt"])) if started else False,
    )


def read_end(path: Path, limit: int) -> bytes:
    """The last ``limit`` bytes of a plain file; nothing for a missing file or anything that is not a plain file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return b""
        return os.pread(fd, limit, max(0, facts.st_size - limit))
    finally:
        os.close(fd)
