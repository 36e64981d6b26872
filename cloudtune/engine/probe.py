"""Is a container engine usable? A probe that cannot be fooled: it builds, runs and reads back, and compares.

A 200-byte program of our own (no registry, no shell, no libc) is built into an image FROM scratch. It prints
the content of a mounted file and ends with a code, both drawn at random for each probe. Only an engine that
builds, starts containers, mounts this machine's folders, keeps logs and returns exit codes passes: a dead
socket, a remote engine without our files, and a socket that loses exit codes each fail with their own reason.
"""

from __future__ import annotations

import os
import secrets
import struct
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudtune.engine import containers, images
from cloudtune.engine.client import Connection, EngineError, connect, translated
from cloudtune.errors import CloudtuneError
from cloudtune.rendering.container import ContainerSpec, Mount

PROBE_SECONDS = 30
_NONCE_BYTES = 32
_INSIDE = "/cloudtune-probe"
_LOAD_ADDRESS = 0x400000
_HEADERS = 64 + 56


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found. ``reason`` is one plain sentence when the engine is not usable."""

    url: str
    usable: bool
    kind: str = ""
    version: str = ""
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.usable:
            return f"{self.kind} {self.version} at {self.url}: usable (built, ran and read back in {self.seconds:.1f} s)"
        return f"{self.url}: not usable: {self.reason}"


def candidates(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where an engine may listen, best first. A DOCKER_HOST that is set is the only one: its owner meant it."""
    if environ.get("DOCKER_HOST"):
        return (environ["DOCKER_HOST"],)
    user = f"/run/user/{os.getuid()}"
    sockets = [
        "/var/run/docker.sock",
        f"{user}/docker.sock",
        str(Path.home() / ".docker/run/docker.sock"),
        f"{user}/podman/podman.sock",
        "/run/podman/podman.sock",
    ]
    return tuple(f"unix://{path}" for path in sockets if Path(path).exists())


def probe_all(environ: Mapping[str, str]) -> tuple[Verdict, ...]:
    """One verdict per candidate, up to and with the first usable one. Empty when no socket exists at all."""
    verdicts: list[Verdict] = []
    for url in candidates(environ):
        verdicts.append(probe(url))
        if verdicts[-1].usable:
            break
    return tuple(verdicts)


def usable_engine(environ: Mapping[str, str]) -> Connection:
    """A connection to the first usable engine. Raises EngineError that says why each candidate is not."""
    verdicts = probe_all(environ)
    if verdicts and verdicts[-1].usable:
        return connect(verdicts[-1].url)
    if not verdicts:
        raise EngineError("no container engine runs here", hint="start docker or podman, or set DOCKER_HOST")
    raise EngineError("; ".join(str(verdict) for verdict in verdicts), hint="cloudtune doctor says more")


def probe(url: str) -> Verdict:
    """Try the engine at ``url``; takes about half a second where it works. Leaves no container and no image behind."""
    began = time.monotonic()
    try:
        connection = connect(url)
    except CloudtuneError as error:
        return Verdict(url, usable=False, reason=error.what)
    try:
        reason = _try(connection)
    except CloudtuneError as error:
        reason = _plainer(error.what, connection.kind)
    finally:
        connection.close()
    return Verdict(url, not reason, connection.kind, connection.version, reason, time.monotonic() - began)


def _try(connection: Connection) -> str:
    """An empty text, or the sentence that says what the engine got wrong."""
    code = 2 + secrets.randbelow(100)
    nonce = secrets.token_hex(_NONCE_BYTES // 2)
    name = f"cloudtune-probe-{nonce[:12]}"
    with tempfile.TemporaryDirectory(prefix="cloudtune-probe-") as folder:
        (Path(folder) / "nonce").write_text(nonce)
        Path(folder).chmod(0o755)
        files = {"probe": program(f"{_INSIDE}/nonce", code), "Dockerfile": b'FROM scratch\nCOPY probe /probe\nENTRYPOINT ["/probe"]\n'}
        images.build_image(connection, name, files)
        try:
            return _run(connection, name, Path(folder), code, nonce)
        finally:
            containers.remove(connection, name)
            _forget(connection, name)


def _run(connection: Connection, name: str, folder: Path, code: int, nonce: str) -> str:
    spec = ContainerSpec(image=name, name=name, mounts=(Mount(folder, _INSIDE, read_only=True),))
    containers.create(connection, spec)
    containers.start(connection, name)
    ended = containers.wait(connection, name, PROBE_SECONDS)
    printed = containers.log_text(connection, name)
    if ended.exit_code != code:
        return f"it loses exit codes: the probe ended with {code}, the engine says {ended.exit_code}"
    if nonce not in printed:
        return "it does not see this machine's folders (a remote engine?), or loses logs: the mounted file was not read back"
    return ""


def _forget(connection: Connection, name: str) -> None:
    with translated("removing the probe's image"):
        connection.api.remove_image(name, force=True)


def _plainer(text: str, kind: str) -> str:
    if "exec format error" in text:
        return "it cannot run linux/amd64 programs, which our images are"
    if "rlimit" in text:
        remedy = "; default_ulimits in its containers.conf can lower them (docs/containers.md)" if kind == "podman" else ""
        return f"it may not raise its limits here{remedy} ({text})"
    return text


def program(path: str, code: int) -> bytes:
    """A static Linux program for x86-64: prints up to 64 bytes of the file ``path``, then exits with ``code`` (below 256)."""
    before = b"\xb8\x02\x00\x00\x00"  # mov eax, open
    after = (
        b"\x31\xf6\x31\xd2\x0f\x05"  # flags 0, mode 0, syscall
        b"\x89\xc7\x48\x83\xec\x40\x48\x89\xe6"  # edi = file, 64 bytes of stack, rsi = buffer
        b"\xba\x40\x00\x00\x00\x31\xc0\x0f\x05"  # read
        b"\x89\xc2\x48\x89\xe6\xbf\x01\x00\x00\x00\xb8\x01\x00\x00\x00\x0f\x05\xbf"  # write what was read to stdout; edi =
        + struct.pack("<I", code)
        + b"\xb8\x3c\x00\x00\x00\x0f\x05"  # exit
    )
    code_bytes = before + b"\x48\x8d\x3d" + struct.pack("<i", len(after)) + after + path.encode() + b"\0"
    size = _HEADERS + len(code_bytes)
    entry = _LOAD_ADDRESS + _HEADERS
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identity + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return header + segment + code_bytes
