"""What one container is to be, as a value: image, mounts, limits, network. Pure; ``cloudtune.engine`` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Network = Literal["none", "open"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine at ``target`` inside the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container. ``memory_bytes`` covers everything in it, swap excluded; ``tmpfs`` maps a path to its size in bytes.

    ``network="none"`` leaves the loopback interface only. ``user`` is ``uid:gid``; None keeps the image's own.
    ``env`` is seen by whoever may ask the engine about the container, so it holds no secret of ours: a secret's
    value is only put here when the recipe says that it comes from this machine's environment.
    """

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    name: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    network: Network = "none"
    memory_bytes: int | None = None
    cpus: float | None = None
    read_only: bool = False
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    user: str | None = None
    gpus: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What the engine says of one container. Times are the engine's ISO texts; ``exit_code`` is None while it runs."""

    name: str
    status: str
    exit_code: int | None
    oom_killed: bool
    started: str
    finished: str
    labels: Mapping[str, str]

    @property
    def running(self) -> bool:
        return self.exit_code is None
