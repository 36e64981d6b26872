"""The stand-in as a rehearsal opens it: a project in the plan's region with short waits, and two handles on its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Pace, Scene
from cloudtune.standins.runner import Runner

# The clock is this machine's, so that times and costs are the small job's own; only the waits are short.
PACE = Pace(queued=1, provisioning=3, all_up=1, error_late=3, preempted=3, retry=2, grace=120.0, build=4)


class RehearsalCloud:
    """A stand-in for one rehearsal."""

    def __init__(self, cloud: GcpStandin) -> None:
        self._cloud = cloud

    @property
    def environment(self) -> Mapping[str, str]:
        return self._cloud.environment

    def take_away(self, launch_id: str) -> None:
        """The Spot VMs of the job are preempted."""
        self._cloud.preempt(launch_id)

    def starts(self, launch_id: str) -> int:
        """How often the launch's program was started, over all its jobs."""
        return sum(job.attempt for job in self._cloud.jobs(launch_id))


@contextmanager
def open_cloud(folder: Path, region: str, runner: Runner) -> Iterator[RehearsalCloud]:
    """The stand-in, running until the block ends; ``folder`` holds its objects and machines."""
    scene = Scene(region=region, pace=PACE)
    with GcpStandin.start(folder, scene=scene, runner=runner) as cloud:
        yield RehearsalCloud(cloud)
