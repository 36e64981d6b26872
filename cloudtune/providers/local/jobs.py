"""Jobs as processes of this machine: submit, find, poll, stop and the fence. Leaves no server behind.

A job is alive while somebody holds its folder's lock; see supervisor.py for who holds it when.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloudtune.errors import NotFoundError, ProviderError, RejectedError, UnavailableError
from cloudtune.filelock import FileLock
from cloudtune.job import JobRef, LaunchId, Reading, parse_launch_id
from cloudtune.providers.local import supervisor
from cloudtune.providers.local.environment import trainer_environment
from cloudtune.providers.local.folder import PROVIDER, THIS_MACHINE, JobFolder, job_folder, look, read_end
from cloudtune.providers.local.inputs import lay_out
from cloudtune.providers.local.processes import is_running, signal_group, signal_process
from cloudtune.providers.local.readings import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cloudtune.clock import Clock
    from cloudtune.providers.base import Request

DEADLINE_SECONDS = 30.0


class LocalJobs:
    """A JobService over ``<home>/local``; also its Fence, Killer and Inventory."""

    def __init__(self, home: Path, cache: Path, clock: Clock, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._home = home
        self._cache = cache
        self._clock = clock
        self._deadline = deadline_seconds

    def submit(self, request: Request) -> JobRef:
        """Start the job unless it was started before; one that was cut off goes on from its checkpoint.

        Raises RejectedError for an id that was given up or names another job, UnavailableError past the deadline.
        """
        folder = self._folder(request.launch_id)
        with _as_provider_error(folder):
            folder.path.mkdir(parents=True, exist_ok=True)
            for _ in self._until_deadline():
                lock = FileLock.try_acquire(folder.lock)
                if lock is not None:
                    try:
                        attempt = self._start(folder, request, lock)
                    finally:
                        lock.release()
                    return self._started(folder, request.launch_id, attempt)
                if folder.started.exists() and folder.alive():
                    _check_same(folder, request)
                    return _ref(request.launch_id)
        raise _too_slow(folder, "start")

    def find(self, launch_id: LaunchId) -> JobRef | None:
        """The job, or None when it was never started. Waits while a submit is on its way."""
        folder = self._folder(launch_id)
        with _as_provider_error(folder):
            for _ in self._until_deadline():
                sight = look(folder)
                if sight.fenced:
                    return None
                if sight.started is not None:
                    return _ref(launch_id)
                if not sight.alive:
                    return None
        raise _too_slow(folder, "be found")

    def poll(self, refs: Sequence[JobRef]) -> Sequence[Reading]:
        """One reading for each ref, in order."""
        readings = []
        for ref in refs:
            folder = self._folder(parse_launch_id(ref.name))
            with _as_provider_error(folder):
                readings.append(read(folder, ref, self._clock.now()))
        return readings

    def stop(self, ref: JobRef) -> None:
        """Ask the job to save and end, with the grace of its request. Returns at once."""
        self.stop_within(ref, None)

    def stop_within(self, ref: JobRef, grace_seconds: float | None) -> None:
        """``stop`` with another grace (seconds from SIGTERM to SIGKILL). A later, shorter grace holds."""
        folder = self._folder(parse_launch_id(ref.name))
        with _as_provider_error(folder):
            sight = look(folder)
            if not sight.known or sight.fenced:
                raise NotFoundError("this machine has no such job", where=str(ref), hint="list the jobs with: cloudtune ps")
            reading = read(folder, ref, self._clock.now())
            if reading.state.terminal:
                return
            self._ask_to_stop(folder, grace_seconds)
            if sight.alive and sight.started is not None and not is_running(sight.started["supervisor"]):
                self._stop_orphan(folder, sight.started)

    def fence(self, launch_id: LaunchId) -> JobRef | None:
        """The job if it was started; otherwise None, and then it can never start."""
        folder = self._folder(launch_id)
        with _as_provider_error(folder):
            folder.path.mkdir(parents=True, exist_ok=True)
            for _ in self._until_deadline():
                if folder.started.exists():
                    return _ref(launch_id)
                lock = FileLock.try_acquire(folder.lock)
                if lock is None:
                    continue
                try:
                    if folder.started.exists():
                        return _ref(launch_id)
                    supervisor.write_json(folder.fenced, {"at": self._clock.now().timestamp()})
                    return None
                finally:
                    lock.release()
        raise _too_slow(folder, "be fenced")

    def inventory(self) -> Sequence[JobRef]:
        """Every job that was ever started here and whose folder is still there, by name."""
        with _as_provider_error(JobFolder(self._home / "local")):
            return [_ref(LaunchId(path.parent.name)) for path in sorted((self._home / "local").glob(f"*/{supervisor.STARTED}"))]

    def _folder(self, launch_id: LaunchId) -> JobFolder:
        return job_folder(self._home, launch_id)

    def _start(self, folder: JobFolder, request: Request, lock: FileLock) -> int | None:
        """Hand the lock to a supervisor; None when the job was started before. The lock is held by us."""
        if folder.fenced.exists():
            raise RejectedError(f"the launch {request.launch_id} was given up", code="fenced", hint="launch again; it gets a new id")
        _check_same(folder, request)
        attempt = supervisor.may_start(folder.path)
        if attempt is None:
            return None
        secrets = request.body.get("secrets", {})
        environment = trainer_environment(request.launch_id, folder.root, self._cache, secrets)
        lay_out(folder, request.body["inputs"])
        self._cache.mkdir(parents=True, exist_ok=True)
        supervisor.write_json(folder.request, {"launch_id": request.launch_id, "body": dict(request.body)})
        _spawn_supervisor(folder, environment, lock.fd)
        return attempt

    def _started(self, folder: JobFolder, launch_id: LaunchId, attempt: int | None) -> JobRef:
        """Wait for the supervisor's word that ``attempt`` is under way."""
        for _ in self._until_deadline():
            alive = folder.alive()
            started = supervisor.read_json(folder.started)
            if attempt is None or (started is not None and started["attempt"] >= attempt):
                return _ref(launch_id)
            if not alive:
                reason = read_end(folder.own_log, 2000).decode(errors="replace").strip()
                raise UnavailableError(f"the job's supervisor did not start: {reason}", where=str(folder.path), hint="launch again")
        raise _too_slow(folder, "start")

    def _ask_to_stop(self, folder: JobFolder, grace_seconds: float | None) -> None:
        asked = supervisor.read_json(folder.stop)
        if asked is not None and (grace_seconds is None or grace_seconds >= asked.get("grace_seconds", grace_seconds + 1)):
            return
        order = {"at": asked["at"] if asked else self._clock.now().timestamp()}
        supervisor.write_json(folder.stop, order if grace_seconds is None else {**order, "grace_seconds": grace_seconds})

    def _stop_orphan(self, folder: JobFolder, started: dict[str, object]) -> None:
        """A trainer whose supervisor was killed: signal it ourselves, if it is provably the one we started."""
        mark = started.get("trainer")
        asked, request = supervisor.read_json(folder.stop) or {}, supervisor.read_json(folder.request) or {}
        grace = asked.get("grace_seconds", request.get("body", {}).get("grace_seconds", 60))
        if not isinstance(mark, dict):
            return
        if self._clock.now().timestamp() - asked.get("at", 0) >= grace:
            signal_group(mark)
        else:
            signal_process(mark)

    def _until_deadline(self) -> Iterator[None]:
        deadline = self._clock.monotonic() + self._deadline
        while self._clock.monotonic() < deadline:
            yield
            self._clock.sleep(0.02)


def _ref(launch_id: LaunchId) -> JobRef:
    return JobRef(PROVIDER, THIS_MACHINE, launch_id)


def _check_same(folder: JobFolder, request: Request) -> None:
    accepted = supervisor.read_json(folder.request)
    if accepted is not None and accepted["body"] != dict(request.body):
        raise RejectedError(
            f"{request.launch_id} already names another job on this machine", code="launch-id-taken", hint="launch without a job id"
        )


def _spawn_supervisor(folder: JobFolder, environment: dict[str, str], lock_fd: int) -> None:
    """Start the supervisor in a session of its own: it outlives us and our terminal, and holds the lock from its first instant."""
    with folder.own_log.open("ab") as log:
        program = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, str(folder.path), str(lock_fd)],
            cwd=folder.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock_fd],
            start_new_session=True,
        )
        program.wait()  # it leaves a child behind and ends at once


def _too_slow(folder: JobFolder, what: str) -> UnavailableError:
    return UnavailableError(f"the job did not {what} in time", where=str(folder.path), hint="look again with: cloudtune ps")


@contextmanager
def _as_provider_error(folder: JobFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProviderError(
            f"the job's folder cannot be used: {error.strerror}",
            where=str(error.filename or folder.path),
            hint="check the folder's permissions and the free disk space",
        ) from error
