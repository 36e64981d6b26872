"""The stand-in AWS as a rehearsal wants it: an account that has just what the job needs, in the region of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.standins.aws.account import Account, Durations
from cloudtune.standins.aws.cloud import AwsStandin

if TYPE_CHECKING:
    from pathlib import Path

    from cloudtune.standins.runner import Runner


BETWEEN_MACHINES = 8.0
"""Seconds without a machine: longer than the pause between two lists of jobs, so that the tracker sees it."""


@dataclass(frozen=True)
class RehearsalCloud:
    """See registry.Cloud."""

    standin: AwsStandin

    @property
    def environment(self) -> Mapping[str, str]:
        return {**self.standin.environment, "CLOUDTUNE_AWS_BUCKET": "auto"}  # the launcher makes it, as it would for you

    def take_away(self, launch_id: str) -> None:
        self.standin.interrupt(launch_id)

    def starts(self, launch_id: str) -> int:
        return sum(record.attempts for record in self.standin.jobs(launch_id))


@contextmanager
def open_cloud(folder: Path, region: str, runner: Runner) -> Iterator[RehearsalCloud]:
    """Open it until the block ends."""
    mode = "container" if runner.mode == "container" else "process"
    account = Account(region=region, durations=Durations(interrupted=BETWEEN_MACHINES))
    with AwsStandin.start(folder, mode=mode, runner=runner, account=account, bucket="") as cloud:  # type: ignore[arg-type]
        yield RehearsalCloud(cloud)
