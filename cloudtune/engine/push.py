"""Pushes: an image of this machine's engine goes to a registry and is named by its digest ever after. Builds nothing itself.

    builder = PushingBuilder(connection, lambda: Credentials("AWS", token))         # ECR, from get_authorization_token
    builder = PushingBuilder(connection, lambda: Credentials("oauth2accesstoken", token))   # Artifact Registry
    reference = ensure_image(builder, choice.name, context, progress)               # repository/name@sha256:...

What it needs: an image name that begins with the registry's host (``image_name`` with a repository), a repository that
exists (only the cloud's own API can make one), and ``login``, which is called anew before each attempt, because a cloud's
registry tokens last for an hour or twelve and a first push takes long. ``login`` may return None: then the engine's
client uses what ``docker login`` and its credential helpers stored. Credentials go to the engine in a header of one call;
they are never written, shown or kept.

The engine sends a layer again by itself when its connection breaks; after that a push is tried again here, and the
layers that have arrived are not sent twice. podman has no call that asks a registry, so with it every push is offered anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtune.clock import Clock, SystemClock
from cloudtune.engine.builder import EngineBuilder
from cloudtune.engine.client import Connection, EngineError, translated
from cloudtune.engine.images import find_image
from cloudtune.errors import AuthError, NotFoundError, ProviderError, RejectedError, ThrottledError, UnavailableError

WAITS_SECONDS: Final = (2.0, 8.0, 30.0)
"""Before the second, third and fourth attempt. The engine's own five tries for each layer come before each of these."""

_NO_REPOSITORY = re.compile(r"name unknown|name_unknown|repository (not found|does not exist)")
_REFUSED = re.compile(r"immutable|tag invalid|manifest invalid")
_THROTTLED = re.compile(r"toomanyrequests|too many requests|rate exceeded")
_NO_ENTRY = re.compile(r"unauthori[sz]ed|authentication required|no basic auth|denied|forbidden|has expired")
_WRONG_PLACE = re.compile(r"no such host|certificate|server gave http response")
_BROKEN = re.compile(
    r"\beof\b|reset by peer|connection refused|broken pipe|time(d )?out|http status: 5\d\d|blob upload (unknown|invalid)|use of closed"
)
_ARRIVED = "Pushed"
_THERE_ALREADY = ("Layer already exists", "Mounted from")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A registry's user and its password or token."""

    username: str
    password: str = field(repr=False)

    def for_engine(self) -> dict[str, str]:
        """As the engine's API takes it."""
        return {"username": self.username, "password": self.password}


Login = Callable[[], Credentials | None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """``reference`` is ``repository@sha256:...``. Layers that went over the network, and layers that were there already."""

    reference: str
    sent: int
    kept: int


@dataclass(frozen=True)
class PushingBuilder:
    """An ``ImageBuilder`` whose images lie in a registry: an image that is there already is neither built nor pushed."""

    connection: Connection
    login: Login
    clock: Clock = field(default_factory=SystemClock)

    def find(self, name: str) -> str | None:
        """The image by digest, None when the registry has none. Raises AuthError, NotFoundError (no repository), EngineError."""
        return find_pushed(self.connection, name, self.login)

    def build(self, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str:
        """Build it, or take the one that this engine has (a dry run's too), and push it. Raises BuildFailed and push errors."""
        local = EngineBuilder(self.connection)
        plain = name.rpartition("/")[2]
        found = local.find(name) or local.find(plain) or local.build(plain, context, progress)
        repository, _, tag = name.rpartition(":")
        with translated(f"naming {plain}"):
            self.connection.api.tag(found, repository, tag, force=True)
        return push_image(self.connection, name, self.login, progress, clock=self.clock).reference


def find_pushed(connection: Connection, name: str, login: Login) -> str | None:
    """``repository@sha256:...`` of what the registry has under ``name``, or None."""
    import docker.errors

    given = login()
    with translated(f"asking the registry for {name}"):
        try:
            facts = connection.api.inspect_distribution(name, given.for_engine() if given else None)
        except docker.errors.NotFound:
            return None  # no such tag; podman: no such call
        except docker.errors.APIError as error:
            raise _in_our_words(name, str(error.explanation or error)) from error
    return f"{name.rpartition(':')[0]}@{facts['Descriptor']['digest']}"


def push_image(connection: Connection, name: str, login: Login, progress: Callable[[str], None], *, clock: Clock | None = None) -> Pushed:
    """Push the local image ``name``; ``progress`` hears about each layer.

    Tried again after a broken connection, and once with a fresh login when the registry has had enough of the old one.
    Raises AuthError, NotFoundError, RejectedError, and after the last attempt UnavailableError or ThrottledError.
    """
    if find_image(connection, name) is None:
        raise NotFoundError(f"there is no image {name} on this engine", hint="build it with: cloudtune launch --dry-run")
    waits = list(WAITS_SECONDS)
    given = login()
    while True:
        try:
            return _push_once(connection, name, given, progress)
        except (UnavailableError, ThrottledError) as error:
            if not waits:
                raise
            progress(f"the push broke off ({error.what}); trying again")
            (clock or SystemClock()).sleep(waits.pop(0))
            given = login()
        except AuthError:
            fresh = login()
            if fresh == given:
                raise
            given = fresh


def _push_once(connection: Connection, name: str, given: Credentials | None, progress: Callable[[str], None]) -> Pushed:
    repository, _, tag = name.rpartition(":")
    layers = _Layers(progress)
    with translated(f"pushing {name}"):
        stream = connection.api.push(repository, tag, stream=True, decode=True, auth_config=given.for_engine() if given else None)
        for part in stream:  # read to its end even after an error, so that the connection can be used again
            layers.take(part)
    if layers.error:
        raise _in_our_words(name, layers.error)
    if not layers.digest:
        raise EngineError(f"pushing {name}: the engine reported no error and no digest", hint="cloudtune doctor tries the engine")
    return Pushed(f"{repository}@{layers.digest}", layers.sent, layers.kept)


class _Layers:
    """What an engine says during a push: each layer's progress in tenths, the digest at the end, or an error."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._tenths: dict[str, int] = {}
        self.sent = self.kept = 0
        self.digest = self.error = ""

    def take(self, part: Mapping[str, Any]) -> None:
        self.error = self.error or str(part.get("error") or "")
        self.digest = str((part.get("aux") or {}).get("Digest") or self.digest)
        layer, status = str(part.get("id", "")), str(part.get("status", ""))
        detail = part.get("progressDetail") or {}
        if status == _ARRIVED:
            self.sent += 1
            self._progress(f"layer {layer} is there")
        elif status.startswith(_THERE_ALREADY):
            self.kept += 1
            self._progress(f"layer {layer} was there already")
        elif detail.get("total"):
            self._tell(layer, int(detail.get("current", 0)), int(detail["total"]))

    def _tell(self, layer: str, sent: int, whole: int) -> None:
        tenth = min(10, 10 * sent // whole)
        if tenth > self._tenths.get(layer, 0):
            self._tenths[layer] = tenth
            self._progress(f"layer {layer}: {sent / 1e6:.0f} of {whole / 1e6:.0f} MB")


def _in_our_words(name: str, text: str) -> ProviderError:
    """An engine's or registry's sentence as one of our errors: who may not, what is missing, what is worth another try."""
    host = name.partition("/")[0]
    low = text.lower()
    said = f"the registry {host}: {text.strip()}"
    if _NO_REPOSITORY.search(low):
        return NotFoundError(said, hint=f"make the repository first; the image is {name}")
    if _REFUSED.search(low):
        return RejectedError(said, hint="the tag names its content: remove the tag in the registry if it holds something else")
    if _THROTTLED.search(low):
        return ThrottledError(said, hint="try again in a few minutes")
    if _NO_ENTRY.search(low):
        return AuthError(said, hint=f"your login may not push there, or has expired; for a registry of your own: docker login {host}")
    if _WRONG_PLACE.search(low):
        return EngineError(said, hint="check the repository in the settings: cloudtune doctor")
    if _BROKEN.search(low):
        return UnavailableError(said, hint="try again: layers that have arrived are not sent twice")
    return EngineError(said, hint="docker push by hand says more")
