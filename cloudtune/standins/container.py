"""Runs a job's own program in a stand-in cloud in real containers of this machine's engine. See runner.py."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cloudtune.engine import containers
from cloudtune.engine.client import Connection, connect
from cloudtune.errors import CloudtuneError
from cloudtune.rendering.container import ContainerSpec, Mount
from cloudtune.rendering.dockerfile import CODE_DIR
from cloudtune.standins.runner import LIFELINE, PIP, Lifeline, make_python

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudtune.standins.runner import OnLine, Program

_TOOLS = "/opt/cloudtune-standin"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class ContainerRunner:
    """Containers of ``image``, which stands for whatever image a job names (empty: the job's own name, which the engine must have).

    ``network``: "none" keeps a job to itself, "open" lets it reach what listens on this machine. ``user``: ``uid:gid``.
    """

    engine: str
    image: str = ""
    network: Literal["none", "open"] = "none"
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    mode: str = "container"

    def start(self, program: Program, on_line: OnLine) -> ContainerRunning:
        """Raises EngineError; NotFoundError when the engine does not have the image."""
        alive = self._lay_out(program)
        connection = connect(self.engine)
        try:
            name = containers.create(connection, self._spec(program))
            containers.start(connection, name)
        except CloudtuneError:
            alive.end()
            connection.close()
            raise
        return ContainerRunning(connection, name, alive, program.host, on_line)

    def _lay_out(self, program: Program) -> Lifeline:
        tools = program.workplace / "tools"
        make_python(tools / "bin", "python3", f"{_TOOLS}/packages.py", tools / "packages", f"{_TOOLS}/packages")
        shutil.copyfile(PIP, tools / "packages.py")
        for folder in (program.workplace, *program.folders.values()):
            folder.chmod(0o777)  # the container's user may be another
        return Lifeline(tools / "alive")

    def _spec(self, program: Program) -> ContainerSpec:
        given = {**program.env, **self.env}
        ours = {
            "PATH": f"{_TOOLS}/bin:{given.get('PATH') or _PATH}",
            "PYTHONPATH": f"{_TOOLS}/packages:{given.get('PYTHONPATH') or CODE_DIR}",
            LIFELINE: f"{_TOOLS}/alive",
            **({"CLOUDTUNE_KEEP_USER": "1"} if self.user is None and os.getuid() != 0 else {}),  # a rootless engine: root there is you
        }
        folders = tuple(Mount(here, inside) for inside, here in program.folders.items())
        return ContainerSpec(
            image=self.image or program.image,
            entrypoint=program.command[:1],
            command=program.command[1:],
            env={"OMP_NUM_THREADS": "1", **given, **ours},
            mounts=(*folders, *self.mounts, Mount(program.workplace / "tools", _TOOLS)),
            network=self.network,
            user=self.user,
        )


class ContainerRunning:
    """One container, removed when its end was read."""

    def __init__(self, connection: Connection, name: str, alive: Lifeline, host: str, on_line: OnLine) -> None:
        self._connection = connection
        self._name = name
        self._alive = alive
        self._code: int | None = None
        self._using = threading.Lock()  # the engine's client is not for several threads at once
        self._lines = threading.Thread(target=self._follow, args=(host, on_line), daemon=True)
        self._lines.start()

    def _follow(self, host: str, on_line: OnLine) -> None:
        connection = connect(self._connection.url)
        try:
            for line in containers.follow(connection, self._name):
                on_line(host, line)
        except CloudtuneError as error:
            sys.stderr.write(f"the log of {host} ended early: {error.what}\n")
        finally:
            connection.close()

    def terminate(self) -> None:
        with self._using:
            if self._code is None:
                containers.signal(self._connection, self._name)

    def kill(self) -> None:
        with self._using:
            if self._code is None:
                containers.signal(self._connection, self._name, "SIGKILL")

    def wait(self, seconds: float | None = None) -> int | None:
        end = None if seconds is None else time.monotonic() + seconds
        while self._code is None:
            with self._using:
                state = containers.find(self._connection, self._name)
            if state is None or not state.running:
                self._end(state.exit_code if state is not None and state.exit_code is not None else 137)
            elif end is not None and time.monotonic() >= end:
                return None
            else:
                time.sleep(_LOOK_SECONDS)
        return self._code

    def _end(self, code: int) -> None:
        self._lines.join(10)
        with self._using, suppress(CloudtuneError):
            containers.remove(self._connection, self._name)
        self._alive.end()
        self._connection.close()
        self._code = code
