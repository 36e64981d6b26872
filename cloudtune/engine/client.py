"""One connection to a container engine, and its errors in our words. Starts nothing by itself.

The engine's own API is spoken through the ``docker`` package with its classic builder only, so that docker from
20.10 on and podman's docker socket answer alike. ``docker`` (50 ms to import) loads when a connection is made.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cloudtune.errors import NotFoundError, ProviderError, UnavailableError

CALL_SECONDS = 60
EXTRA_HINT = "install it with: pip install 'cloudtune[containers]'"


class EngineError(ProviderError):
    """The container engine refused, failed, or is not there."""

    default_code = "engine"


@dataclass(frozen=True, slots=True)
class Connection:
    """An engine that answered. ``api`` is the package's low-level client; ``kind`` is docker or podman.

    ``rootless``: root inside its containers is the user who runs the engine.
    """

    url: str
    kind: str
    version: str
    has_bridge: bool
    rootless: bool
    api: Any

    def close(self) -> None:
        """Give the sockets back."""
        self.api.close()


def connect(url: str) -> Connection:
    """Speak to the engine at ``url`` (unix:///... or tcp://...). Raises EngineError with the reason when none answers."""
    try:
        import docker
    except ImportError as error:
        raise EngineError("the docker package is not installed", hint=EXTRA_HINT, code="engine-extra") from error
    with translated(f"the engine at {url}"):
        _knock(url)
        api = docker.APIClient(base_url=url, version="auto", timeout=CALL_SECONDS)
        try:
            facts = api.version()
            bridges = api.networks(names=["bridge", "podman"])
            options = [str(option) for option in api.info().get("SecurityOptions") or ()]
        except docker.errors.DockerException:
            api.close()
            raise
    names = [part.get("Name", "") for part in facts.get("Components", ())]
    kind = "podman" if any("podman" in name.lower() for name in names) else "docker"
    rootless = any("rootless" in option for option in options)
    return Connection(url, kind, str(facts.get("Version", "")), bool(bridges), rootless, api)


def _knock(url: str) -> None:
    """Whether anybody listens on a Unix socket. Asked with a socket of ours, because docker's package leaves a refused one open."""
    if not url.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as ours:
        ours.settimeout(CALL_SECONDS)
        try:
            ours.connect(url.removeprefix("unix://"))
        except OSError as error:
            hint = "start docker, or point DOCKER_HOST at a running engine"
            raise EngineError(f"the engine at {url} does not answer: {_cause(error)}", hint=hint) from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Every failure of the docker package inside the block leaves it as one of our errors, cause kept."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise NotFoundError(f"{doing}: there is no such image here", hint="build it with: cloudtune launch --dry-run") from error
    except docker.errors.NotFound as error:
        raise NotFoundError(f"{doing}: {_words(error)}") from error
    except docker.errors.APIError as error:
        raise EngineError(f"{doing}: {_words(error)}") from error
    except (docker.errors.DockerException, requests.exceptions.ConnectionError) as error:
        raise EngineError(
            f"{doing} does not answer: {_cause(error)}", hint="start docker, or point DOCKER_HOST at a running engine"
        ) from error
    except requests.exceptions.Timeout as error:
        raise UnavailableError(f"{doing} did not answer within {CALL_SECONDS} s") from error


def _words(error: Any) -> str:
    return str(getattr(error, "explanation", None) or error).strip()


def _cause(error: BaseException) -> str:
    """The system's own reason at the bottom of a chain of wrappers: no such file, connection refused, permission denied."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, OSError) and part.strerror and part.errno:
            return part.strerror.lower()
        if isinstance(part, BaseException):
            todo += [part.__cause__, part.__context__, getattr(part, "reason", None), *part.args]
    return str(error).splitlines()[0]
