"""Containers: start one from its spec, read its state, its log and its exit code, stop it, remove it.

A container is never started with the engine's own auto-remove: podman loses exit codes that way, and a crash
between the end and the reading would lose the outcome on any engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudtune.engine.client import Connection, translated
from cloudtune.errors import UnavailableError
from cloudtune.rendering.container import ContainerSpec, ContainerState

_NANO = 1_000_000_000


def create(connection: Connection, spec: ContainerSpec) -> str:
    """Make the container and return its id. Raises NotFoundError when its image is not on this engine (nothing is pulled)."""
    api = connection.api
    with translated(f"creating a container of {spec.image}"):
        host = api.create_host_config(
            mounts=[_mount(mount.source, mount.target, mount.read_only) for mount in spec.mounts],
            network_mode=_network(connection, spec),
            mem_limit=spec.memory_bytes,
            memswap_limit=spec.memory_bytes,
            nano_cpus=round(spec.cpus * _NANO) if spec.cpus else None,
            read_only=spec.read_only,
            tmpfs={path: f"size={size}" for path, size in spec.tmpfs.items()} or None,
            device_requests=[_all_gpus()] if spec.gpus else None,
        )
        made = api.create_container(
            image=spec.image,
            command=list(spec.command) or None,
            entrypoint=list(spec.entrypoint) if spec.entrypoint is not None else None,
            name=spec.name,
            environment=dict(spec.env),
            host_config=host,
            user=spec.user,
            labels=dict(spec.labels),
        )
    return str(made["Id"])


def _mount(source: Any, target: str, read_only: bool) -> Any:
    from docker.types import Mount

    return Mount(target=target, source=str(source), type="bind", read_only=read_only)


def _network(connection: Connection, spec: ContainerSpec) -> str:
    if spec.network == "none":
        return "none"
    return "bridge" if connection.has_bridge else "host"


def _all_gpus() -> Any:
    from docker.types import DeviceRequest

    return DeviceRequest(count=-1, capabilities=[["gpu"]])


def start(connection: Connection, name: str) -> None:
    """Start a created container; one that runs or ran already is left alone."""
    with translated(f"starting {name}"):
        connection.api.start(name)


def find(connection: Connection, name: str) -> ContainerState | None:
    """The state of the container ``name`` (or id), None when the engine has none."""
    import docker.errors

    with translated(f"reading the state of {name}"):
        try:
            facts = connection.api.inspect_container(name)
        except docker.errors.NotFound:
            return None
    return _state(facts)


def _state(facts: dict[str, Any]) -> ContainerState:
    state = facts["State"]
    status = str(state["Status"])
    ended = status in ("exited", "dead")
    return ContainerState(
        name=str(facts["Name"]).lstrip("/"),
        status=status,
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        started=str(state.get("StartedAt", "")),
        finished=str(state.get("FinishedAt", "")) if ended else "",
        labels=dict(facts["Config"].get("Labels") or {}),
    )


def wait(connection: Connection, name: str, seconds: float) -> ContainerState:
    """The state at the container's end. Raises UnavailableError when it still runs after ``seconds``."""
    import requests.exceptions

    with translated(f"waiting for {name}"):
        try:
            connection.api.wait(name, timeout=seconds)
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError) as error:
            if "timed out" not in str(error).lower():
                raise
            raise UnavailableError(f"the container {name} still runs after {seconds:.0f} s") from error
        return _state(connection.api.inspect_container(name))


def signal(connection: Connection, name: str, number: str = "SIGTERM") -> None:
    """Send a signal to the container's first process; a container that has ended is left alone."""
    import docker.errors

    with translated(f"signalling {name}"):
        try:
            connection.api.kill(name, signal=number)
        except docker.errors.APIError as error:
            if "is not running" not in str(error) and "not running" not in str(error):
                raise


def stop(connection: Connection, name: str, grace_seconds: int) -> None:
    """SIGTERM, ``grace_seconds``, SIGKILL; returns when it is over."""
    with translated(f"stopping {name}"):
        connection.api.stop(name, timeout=grace_seconds)


def remove(connection: Connection, name: str) -> None:
    """Remove the container, running or not; an unknown one is left alone."""
    import docker.errors

    with translated(f"removing {name}"):
        try:
            connection.api.remove_container(name, force=True, v=True)
        except docker.errors.NotFound:
            return


def log_text(connection: Connection, name: str, *, tail: int | None = None) -> str:
    """Everything the container printed (or its last ``tail`` lines), both streams in order."""
    with translated(f"reading the log of {name}"):
        raw: bytes = connection.api.logs(name, stdout=True, stderr=True, tail=tail if tail is not None else "all")
    return raw.decode("utf-8", errors="replace")


def follow(connection: Connection, name: str) -> Iterator[str]:
    """The container's lines as they come, to its end."""
    rest = b""
    with translated(f"following the log of {name}"):
        for chunk in connection.api.logs(name, stdout=True, stderr=True, stream=True, follow=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")
    if rest:
        yield rest.decode("utf-8", errors="replace")
