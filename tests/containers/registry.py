"""A real image registry on loopback for tests (Debian's docker-registry), with a password, and a wire before it that can break.

It asks for a user and a password as Amazon's registry does. Its data lives in the test's own folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudtune.engine.push import Credentials

UP_SECONDS = 20
GOOD = Credentials("AWS", "right")
STALE = Credentials("AWS", "yesterday's")
# bcrypt of the password above, cost 4: the only kind of hash that the registry takes.
_PASSWORDS = "AWS:$2b$04$CSv2y8MVftzL4H.9cpgVterOCnDnT3pMRIjODJc6aW4aBJv9ktita\n"
_SETTINGS = """\
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: test, path: {folder}/passwords}}}}
"""


class NoRegistry(Exception):
    """There is no registry on this machine; the text says why."""


def ensure_installed(*, may_install: bool) -> None:
    """Debian's docker-registry (5 MB). Raises NoRegistry where it is not there and may not be had."""
    if shutil.which("docker-registry"):
        return
    if not may_install or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoRegistry("docker-registry is not installed; to have it: apt-get install docker-registry")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "docker-registry"]):
        answer = subprocess.run(["apt-get", *command], env=quiet, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise NoRegistry(f"apt-get {command[0]} failed: {answer.stderr[-300:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Registry:
    """``host`` is what image names begin with: the wire, which ends at the registry."""

    folder: Path
    port: int
    wire: Wire

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.wire.port}"

    def blobs(self) -> int:
        """How many blobs have arrived whole."""
        return len(list((self.folder / "data").rglob("blobs/sha256/*/*/data")))

    def uploads(self) -> int:
        """How many layers have arrived since the start, by the registry's own log."""
        return sum('"PUT /v2/' in line and "/blobs/uploads/" in line for line in (self.folder / "log").read_text().splitlines())


@dataclass
class Wire:
    """Loopback to ``target``. Each connection ends after ``stop_after`` bytes inwards, with ``answer`` as all that comes back."""

    target: int
    stop_after: int | None = None
    answer: bytes = b""
    stopped: int = 0
    port: int = 0
    server: socket.socket = field(default_factory=socket.socket)

    def open(self) -> None:
        self.server.bind(("127.0.0.1", 0))
        self.server.listen()
        self.port = int(self.server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._connection, args=(near, far), daemon=True).start()

    def _connection(self, near: socket.socket, far: socket.socket) -> None:
        silent = threading.Event()
        back = threading.Thread(target=self._back, args=(far, near, silent), daemon=True)
        back.start()
        with near, far, suppress(OSError):
            gone = 0
            while chunk := near.recv(65536):
                gone += len(chunk)
                if self.stop_after is not None and gone > self.stop_after:
                    silent.set()
                    self.stopped += 1
                    near.sendall(self.answer)
                    near.shutdown(socket.SHUT_WR)
                    while self.answer and near.recv(65536):
                        pass  # whoever sends is left to finish: closing on unread bytes would be a reset, and the answer lost
                    break
                far.sendall(chunk)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def _back(self, far: socket.socket, near: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while (chunk := far.recv(65536)) and not silent.is_set():
                near.sendall(chunk)
            if not silent.is_set():
                near.shutdown(socket.SHUT_RDWR)


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """A registry that runs until the end of the block."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "passwords").write_text(_PASSWORDS)
    (folder / "settings.yml").write_text(_SETTINGS.format(folder=folder, port=port))
    wire = Wire(port)
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(["docker-registry", "serve", str(folder / "settings.yml")], stdout=log, stderr=log)
    try:
        _until_it_listens(port, program, folder)
        wire.open()
        yield Registry(folder, port, wire)
    finally:
        wire.server.close()
        program.terminate()
        program.wait(10)


def _until_it_listens(port: int, program: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline and program.poll() is None:
        with socket.socket() as ours:
            if ours.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise NoRegistry(f"docker-registry does not come up: {(folder / 'log').read_text()[-500:]}")
