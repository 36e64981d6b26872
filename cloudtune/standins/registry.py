"""Provider name → the stand-in that a rehearsal opens for it. Imports a stand-in only when it is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cloudtune.standins.runner import Runner


class Cloud(Protocol):
    """A stand-in that is open for one rehearsal."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that lead cloudtune and the cloud's own libraries to it."""

    def take_away(self, launch_id: str) -> None:
        """Take the spot machines of a running job away, as the cloud does when it wants them back."""

    def starts(self, launch_id: str) -> int:
        """How often the job's program was started."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` has ``open_cloud(folder, region, runner)``. ``login``: beginnings of variables that must not reach it from outside."""

    module: str
    name: str
    login: tuple[str, ...]
    unproved: tuple[str, ...] = ()
    unproved_in_containers: tuple[str, ...] = ()


STANDINS: dict[str, Entry] = {
    "aws": Entry(
        "cloudtune.standins.aws.rehearsal",
        "AWS",
        ("AWS_", "CLOUDTUNE_AWS_"),
        (
            "your account: login, role, bucket, quotas and permissions are the stand-in's: cloudtune doctor --provider aws looks at yours",
            "the service itself: its waits, its prices and its newest rules",
        ),
    ),
    "gcp": Entry(
        "cloudtune.standins.gcp.rehearsal",
        "Google Cloud",
        ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_", "STORAGE_EMULATOR_HOST", "CLOUDTUNE_GCP_"),
        (
            "your project: login, rights, bucket and quotas are the stand-in's: cloudtune doctor --provider gcp looks at yours",
            "Cloud Build and Artifact Registry: the stand-in's record an image and build none",
            "the mount of the bucket: /gcs is a folder that is kept equal to it",
            "the service itself: its waits, its prices and its newest rules",
        ),
        ("the question inside the job whether it is a double: its container has no network, so it goes on without an answer",),
    ),
}


def standin(provider: str) -> Entry:
    """The entry for a provider. Raises UsageError for one that has no stand-in."""
    if provider not in STANDINS:
        raise UsageError(
            f"there is no stand-in for {provider}",
            code="no-standin",
            hint=f"rehearse with --provider {' or '.join(STANDINS)}; a job on this machine needs no rehearsal: cloudtune launch",
        )
    return STANDINS[provider]


def open_cloud(provider: str, folder: Path, region: str, runner: Runner) -> AbstractContextManager[Cloud]:
    """The provider's stand-in, running until the block ends; ``folder`` holds its machines. Raises UsageError without its extra."""
    entry = standin(provider)
    make: Callable[[Path, str, Runner], AbstractContextManager[Cloud]] = import_module(entry.module).open_cloud
    return make(folder, region, runner)
