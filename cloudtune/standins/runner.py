"""Runs a job's own program in a stand-in cloud as plain processes; container.py does the same in real containers.

Both take the same ``Program``, as the platform would start it, and give the same ``Running``: lines while it prints them,
SIGTERM to the first process, the end of everything at the end. The platform's rules (grace, restarts) are the caller's.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloudtune.resources import resource_dir

OnLine = Callable[[str, str], None]
"""Called with host and line, from another thread."""
LIFELINE = "CLOUDTUNE_LIFELINE"
MARK = "CLOUDTUNE_STANDIN_MARK"
_ROOTS = {"/opt/ml": "CLOUDTUNE_ROOT", "/gcs": "CLOUDTUNE_BUCKETS"}
_KEPT = frozenset(
    {"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME",
     "OMP_NUM_THREADS", "CLOUDTUNE_CACHE", "CLOUDTUNE_TORCH_THREADS"}
)  # fmt: skip
_BEAT_SECONDS = 1.0
_SWEEPS = 50


@dataclass(frozen=True, slots=True)
class Program:
    """What a platform starts on one machine of a job.

    ``command`` and ``env`` are the platform's, with its paths; ``folders``: such a path (``/opt/ml``, ``/gcs``) → the folder of
    this machine that lies there. ``workplace``: an existing folder for the machine's scratch. ``image`` counts in containers.
    """

    command: tuple[str, ...]
    env: Mapping[str, str]
    folders: Mapping[str, Path]
    workplace: Path
    host: str = "algo-1"
    image: str = ""


class Running(Protocol):
    """A program that was started. ``wait`` gives its exit code (128 + n after signal n) once, None when the seconds are over."""

    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, seconds: float | None = None) -> int | None: ...


class Runner(Protocol):
    """Starts programs; ``on_line`` has heard every line of both streams when ``wait`` returns the exit code."""

    @property
    def mode(self) -> str: ...
    def start(self, program: Program, on_line: OnLine) -> Running: ...


@dataclass(frozen=True)
class ProcessRunner:
    """Plain processes: paths in command and environment are rewritten to the mapped folders, and told to our supervisor.

    ``python3`` is this interpreter, whose ``pip install`` stays inside the machine's own folder (packages.py).
    """

    mode: str = "process"

    def start(self, program: Program, on_line: OnLine) -> ProcessRunning:
        mark = uuid.uuid4().hex
        alive = Lifeline(program.workplace / "alive")
        process = subprocess.Popen(
            [mapped(word, program.folders) for word in program.command],
            env={**self._environment(program), MARK: mark, LIFELINE: str(alive.path)},
            cwd=program.workplace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return ProcessRunning(process, mark, alive, program.host, on_line)

    def _environment(self, program: Program) -> dict[str, str]:
        packages = program.workplace / "packages"
        tools = make_python(program.workplace / "bin", sys.executable, str(PIP), packages, str(packages))
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        given = {name: mapped(value, program.folders) for name, value in program.env.items()}
        # After the job's own packages: what an image of ours would hold, which is this installation.
        image = (resource_dir("containers") / "trainer", Path(__file__).resolve().parents[2])
        return {
            **kept,
            **given,
            **{name: str(program.folders[inside]) for inside, name in _ROOTS.items() if inside in program.folders},
            "PATH": os.pathsep.join([str(tools), given.get("PATH") or kept.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join(map(str, (packages, *image))),
            "PYTHONUNBUFFERED": "1",
            "CLOUDTUNE_KEEP_USER": "1",  # without a container there is no image to hand to another user
            "CLOUDTUNE_HOME_IN_JOB": str(program.workplace / "home"),
        }


PIP = Path(__file__).with_name("packages.py")


def mapped(text: str, folders: Mapping[str, Path]) -> str:
    """``text`` with every path below one of the platform's folders rewritten to this machine's."""
    for inside, here in folders.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(inside)}(?=/|$|:)", lambda _, here=here: str(here), text)  # type: ignore[misc]
    return text


def make_python(folder: Path, python: str, pip: str, packages: Path, inside: str) -> Path:
    """A folder for the front of PATH with ``python3`` and ``python``: they are ``python``, but for pip, which is the program ``pip``.

    ``packages`` is made; ``inside`` is its path as the program will see it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    packages.chmod(0o777)  # a container's user may be another
    for name in ("python3", "python"):
        script = folder / name
        script.write_text(
            "#!/bin/sh\n"
            'PATH="${PATH#*:}"  # without this folder: the real one is behind it\n'
            f'if [ "$1" = "-m" ] && [ "$2" = "pip" ]; then shift 2; exec "{python}" "{pip}" "{inside}" "$@"; fi\n'
            f'exec "{python}" "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return folder


class Lifeline:
    """A file that is touched while this process lives: a job whose stand-in was killed then saves and ends by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()
        path.touch()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            with suppress(OSError):  # a full disk, or a folder that is gone
                self.path.touch()

    def end(self) -> None:
        self._over.set()


class ProcessRunning:
    """One process and everything that it started; nothing of it is left behind at its end."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, alive: Lifeline, host: str, on_line: OnLine) -> None:
        self._process = process
        self._mark = mark
        self._alive = alive
        self._lines = threading.Thread(target=self._read, args=(host, on_line), daemon=True)
        self._lines.start()

    def _read(self, host: str, on_line: OnLine) -> None:
        with self._process.stdout or open(os.devnull, "rb") as stream:  # noqa: PTH123 - there is always a pipe
            for line in stream:
                on_line(host, line.decode(errors="replace").rstrip("\r\n"))

    def terminate(self) -> None:
        """To the first process alone, as a container engine does it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        kill_marked(self._mark)

    def wait(self, seconds: float | None = None) -> int | None:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        kill_marked(self._mark)  # a machine ends with its first process: nobody else may keep the pipe open
        self._lines.join(10)
        self._alive.end()
        return 128 - code if code < 0 else code


def kill_marked(mark: str) -> None:
    """SIGKILL to every process whose environment has ``mark``: the supervisor's child leads a session of its own."""
    wanted = f"{MARK}={mark}".encode()
    for _ in range(_SWEEPS):
        found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if wanted in _bytes_of(path)]
        if not found:
            return
        for number in found:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # another user's, or gone
        return b""
