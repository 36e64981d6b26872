"""A program of the image, run to its end: in a container, or as plain processes with the same contract.

Both give the same answer: exit code, log, seconds. ``watch`` sees the log while it grows; when it says so, the
program gets one SIGTERM, as a platform would send it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from cloudtune.engine import containers
from cloudtune.engine.client import Connection
from cloudtune.errors import UnavailableError
from cloudtune.rendering.container import ContainerSpec

TICK_SECONDS = 0.05
Watch = Callable[[str], bool]

_KEPT_NAMES = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"})


@dataclass(frozen=True, slots=True)
class Finished:
    """How one program ended. ``signalled`` says that SIGTERM was sent before; ``oom_killed`` is the engine's word."""

    exit_code: int
    log: str
    seconds: float
    signalled: bool = False
    oom_killed: bool = False


class Runner(Protocol):
    """Runs one program of the image on a job's folder."""

    @property
    def mode(self) -> Literal["container", "process"]: ...
    def run(self, spec: ContainerSpec, *, seconds: float, watch: Watch | None = None) -> Finished: ...


@dataclass(frozen=True)
class ContainerRunner:
    """Through an engine. The container is removed afterwards, whatever happened. ``user``: ``uid:gid`` or None."""

    connection: Connection
    user: str | None = None

    @property
    def mode(self) -> Literal["container", "process"]:
        return "container"

    def run(self, spec: ContainerSpec, *, seconds: float, watch: Watch | None = None) -> Finished:
        """Raises UnavailableError when the program still runs after ``seconds``; it is removed then."""
        began = time.monotonic()
        left = containers.find(self.connection, spec.name) if spec.name else None
        if left is not None and not left.running:
            containers.remove(self.connection, left.name)  # of a run that was killed before it could tidy up
        name = containers.create(self.connection, replace(spec, user=spec.user or self.user))
        try:
            containers.start(self.connection, name)
            signalled = self._watch(name, began + seconds, watch) if watch else False
            state = containers.wait(self.connection, name, max(1.0, began + seconds - time.monotonic()))
            log = containers.log_text(self.connection, name)
        finally:
            containers.remove(self.connection, name)
        return Finished(state.exit_code or 0, log, time.monotonic() - began, signalled, state.oom_killed)

    def _watch(self, name: str, deadline: float, watch: Watch) -> bool:
        while time.monotonic() < deadline:
            if watch(containers.log_text(self.connection, name, tail=20)):
                containers.signal(self.connection, name)
                return True
            state = containers.find(self.connection, name)
            if state is None or not state.running:
                return False
            time.sleep(TICK_SECONDS)
        return False


@dataclass(frozen=True)
class ProcessRunner:
    """Without an engine: this interpreter, the same modules, ``folder`` as CLOUDTUNE_ROOT. Limits of the spec do not hold."""

    folder: Path
    python_path: tuple[Path, ...]

    @property
    def mode(self) -> Literal["container", "process"]:
        return "process"

    def run(self, spec: ContainerSpec, *, seconds: float, watch: Watch | None = None) -> Finished:
        """Raises UnavailableError when the program still runs after ``seconds``; its whole group is killed then."""
        module = spec.entrypoint[2] if spec.entrypoint else "cloudtune_entry"
        began = time.monotonic()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *spec.command],
                env=self._environment(spec.env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                signalled = _follow(process, log.fileno(), began + seconds, watch)
            finally:
                _end(process)
            log.seek(0)
            text = log.read().decode(errors="replace")
        code = process.returncode
        return Finished(128 - code if code < 0 else code, text, time.monotonic() - began, signalled)

    def _environment(self, wanted: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in _KEPT_NAMES}
        ours = {
            "PYTHONPATH": os.pathsep.join(map(str, self.python_path)),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "CLOUDTUNE_ROOT": str(self.folder),
            "CLOUDTUNE_KEEP_USER": "1",  # without a container there is no image to hand to another user
            "CLOUDTUNE_HOME_IN_JOB": str(self.folder / "home"),
        }
        here = {name: value for name, value in wanted.items() if not name.startswith(("AIP_", "CLOUDTUNE_INPUT"))}
        return {**kept, **here, **ours}


def _follow(process: subprocess.Popen[bytes], log: int, deadline: float, watch: Watch | None) -> bool:
    signalled = False
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise UnavailableError("the program did not end in time", hint="run it by hand with a bundle from: cloudtune render")
        if watch is not None and not signalled:
            size = os.fstat(log).st_size
            if watch(os.pread(log, 4096, max(0, size - 4096)).decode(errors="replace")):
                process.send_signal(signal.SIGTERM)
                signalled = True
        time.sleep(TICK_SECONDS)
    return signalled


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the program's group may stay behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
