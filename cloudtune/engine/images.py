"""Images: find one by its content-addressed name, or build it from a context in memory. Pushes nothing (push.py does).

A build is streamed line by line; a failing step is reported with its number, its instruction and its last lines.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloudtune.engine.client import Connection, translated
from cloudtune.errors import StagingError

KEPT_LINES = 20
BUILD_SECONDS = 3600
_STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)$", re.IGNORECASE)
_PODMAN_STEP = re.compile(r"^STEP (\d+)/(\d+): (.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BOOKKEEPING = re.compile(r"^ ---> |^Removing intermediate container |^--> |^Successfully (built|tagged) ")


@dataclass(frozen=True, slots=True)
class BuildLine:
    """One line of a build's log and the step that it belongs to (0 of 0 before the first)."""

    text: str
    step: int
    steps: int
    instruction: str


class BuildFailed(StagingError):
    """A step of an image build failed. ``log_tail``: the last lines that the step printed."""

    default_code = "image-build"

    def __init__(self, what: str, *, where: str, hint: str, log_tail: tuple[str, ...]) -> None:
        self.log_tail = log_tail
        lines = "".join(f"\n    {line}" for line in log_tail)
        super().__init__(f"{what}{lines}", where=where, hint=hint)


def context_tar(files: Mapping[str, bytes]) -> bytes:
    """A build context as a tar with fixed owner, mode and time: equal files give equal bytes, and equal layers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            entry.mode = 0o755 if files[name].startswith(b"\x7fELF") else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


def find_image(connection: Connection, name: str) -> str | None:
    """The id of the image ``name`` on this engine, or None. Never asks a registry."""
    import docker.errors

    with translated(f"looking for the image {name}"):
        try:
            return str(connection.api.inspect_image(name)["Id"])
        except docker.errors.ImageNotFound:
            return None


def build_image(
    connection: Connection,
    name: str,
    context: Mapping[str, bytes],
    *,
    on_line: Callable[[BuildLine], None] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Build ``name`` from ``context`` (which holds ``Dockerfile``) and return the image's id.

    An engine without a bridge network builds on the host's network, or no step could fetch anything.
    Raises BuildFailed with the failing step's last lines.
    """
    follower = _Follower(on_line)
    with translated(f"building {name}"):
        stream = connection.api.build(
            fileobj=io.BytesIO(context_tar(context)),
            custom_context=True,
            tag=name,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=BUILD_SECONDS,
            buildargs=dict(arguments or {}),
            network_mode=None if connection.has_bridge else "host",
        )
        error = ""
        for part in stream:  # read to its end even after an error, or the connection would stay open
            for line in str(part.get("stream", "")).splitlines():
                follower.take(line)
            error = error or str(part.get("error") or "")
    if error:
        raise follower.failure(name, error)
    found = find_image(connection, name)
    if found is None:
        raise follower.failure(name, "the engine reported no error and left no image")
    return found


class _Follower:
    """Knows which step a build is at, and keeps that step's last lines."""

    def __init__(self, on_line: Callable[[BuildLine], None] | None) -> None:
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._at = (0, 0, "")

    def take(self, raw: str) -> None:
        text = _COLOUR.sub("", raw).rstrip()
        if not text or _BOOKKEEPING.match(text):
            return
        found = _STEP.match(text) or _PODMAN_STEP.match(text)
        if found:
            self._at = (int(found[1]), int(found[2]), found[3])
            self._tail.clear()
        else:
            self._tail.append(text)
        if self._on_line is not None:
            self._on_line(BuildLine(text, *self._at))

    def failure(self, name: str, error: str) -> BuildFailed:
        step, steps, instruction = self._at
        place = f"step {step} of {steps} ({instruction}) failed" if step else "the build failed before its first step"
        return BuildFailed(f"{place}: {error.strip()}", where=name, hint=_build_hint(error, self._tail), log_tail=tuple(self._tail))


def _build_hint(error: str, tail: deque[str]) -> str:
    text = "\n".join([error, *tail])
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return "the base image does not know your network's certificate: use a base with your CA bundle (settings: image base)"
    if "No space left on device" in text:
        return "the engine's disk is full: docker system df, then docker image prune"
    if "no such host" in text or "pull access denied" in text or "manifest unknown" in text:
        return "the base image is neither here nor in a registry that can be reached: docker pull it first"
    if "from versions: none" in text or "Temporary failure in name resolution" in text:
        return "pip reached no package index from inside the build: check proxy and network of the engine"
    return "the folder written by `cloudtune render -o DIR` can be built by hand to look further"
