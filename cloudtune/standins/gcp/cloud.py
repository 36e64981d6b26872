"""The whole stand-in: one HTTP port and one gRPC port on 127.0.0.1, a project in a folder, and the handles that tests need.

    with GcpStandin.start(folder, mode="process") as cloud:
        os.environ.update(cloud.environment)

What it cannot prove is said in docs/rehearse.md: real rights, quotas, image pulls, drivers, and the mount's exact behaviour.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from cloudtune.standins.clock import StandinClock
from cloudtune.standins.faults import FaultPlan
from cloudtune.standins.gcp.builds import Builds
from cloudtune.standins.gcp.controls import Controls
from cloudtune.standins.gcp.crew import Attempt, MakeCrew, TimedCrew, replicas_of
from cloudtune.standins.gcp.hosts import Stage, make_host_crew
from cloudtune.standins.gcp.jobservice import JobBook
from cloudtune.standins.gcp.lifecycle import Job, Life
from cloudtune.standins.gcp.logbook import SERVICE_TASK, LogBook
from cloudtune.standins.gcp.objects import ObjectStore
from cloudtune.standins.gcp.platform import Platform
from cloudtune.standins.gcp.registry import Registry
from cloudtune.standins.gcp.rest import job_routes
from cloudtune.standins.gcp.rpc import RpcServer
from cloudtune.standins.gcp.scene import Scene
from cloudtune.standins.gcp.storage import StorageApi
from cloudtune.standins.gcp.wire import WireServer
from cloudtune.standins.runner import ProcessRunner, Runner

Mode = Literal["process", "container", "timed"]
_LOOK_SECONDS = 0.05


class GcpStandin:
    """A running stand-in. ``environment`` leads cloudtune and Google's libraries to it; made by ``start``."""

    def __init__(self, folder: Path, clock: StandinClock, scene: Scene, runner: Runner | None, port: int) -> None:
        self.folder = folder
        self.clock = clock
        self.scene = scene
        self.faults = FaultPlan()
        self.logs = LogBook(scene, clock.now)
        self.store = ObjectStore(folder / "objects", clock.now)
        self.store.make_bucket(scene.bucket, scene.region, {})
        self.registry = Registry(scene, folder / "registry")
        self._http = WireServer([], self.faults, port)
        self.book = JobBook(scene, clock.now, Life(scene, self._crews(runner), self._say))
        self._http.routes += [
            *StorageApi(self.store, scene).routes(),
            *job_routes(self.book),
            *self.logs.routes(),
            *Platform(scene).routes(),
            *self.registry.routes(),
            *Controls(self).routes(),
            *Builds(scene, self.store, self.registry, clock.now).routes(),
        ]
        self._rpc = RpcServer(self.book, self.faults)
        self._over = threading.Event()
        self._conductor = threading.Thread(target=self._conduct, daemon=True)
        self._conductor.start()

    @classmethod
    @contextmanager
    def start(
        cls,
        folder: Path,
        *,
        mode: Mode = "process",
        speed: float = 1.0,
        port: int = 0,
        scene: Scene | None = None,
        runner: Runner | None = None,
    ) -> Iterator[GcpStandin]:
        """Serve until the block ends; jobs that still run are ended with it.

        ``mode``: process runs a job's own program here, timed runs nothing, container needs a ``runner`` (container.py).
        ``speed``: seconds of the cloud in a real one, 0 = only ``clock.advance`` moves it. ``folder`` is made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if mode == "container" and runner is None:
            raise ValueError("containers need a runner that knows their engine")
        chosen = None if mode == "timed" else runner or ProcessRunner()
        cloud = cls(folder, StandinClock(speed), scene or Scene(), chosen, port)
        try:
            yield cloud
        finally:
            cloud.close()

    @property
    def url(self) -> str:
        """Where every REST service is."""
        return self._http.url

    @property
    def grpc_url(self) -> str:
        """Where the JobService is over gRPC, as ``grpc://host:port``."""
        return self._rpc.url

    @property
    def environment(self) -> dict[str, str]:
        """Variables for cloudtune and for Google's own libraries."""
        scene = self.scene
        return {
            "CLOUDTUNE_GCP_ENDPOINT": self.url,
            "CLOUDTUNE_GCP_PROJECT": scene.project,
            "CLOUDTUNE_GCP_REGION": scene.region,
            "CLOUDTUNE_GCP_BUCKET": scene.bucket,
            "CLOUDTUNE_GCP_SERVICE_ACCOUNT": scene.service_account,
            "CLOUDTUNE_GCP_REPOSITORY": f"{scene.region}-docker.pkg.dev/{scene.project}/{scene.repository}",
            "STORAGE_EMULATOR_HOST": self.url,
            "GOOGLE_CLOUD_PROJECT": scene.project,
        }

    @property
    def repository(self) -> str:
        """The project's repository at an address that an engine on this machine can push to."""
        return f"{self.url.removeprefix('http://')}/{self.scene.project}/{self.scene.repository}"

    def jobs(self, launch_id: str | None = None) -> list[Job]:
        """The jobs that were accepted, oldest first; with a launch id only those that bear it in a label."""
        with self.book.lock:
            self.book.tick()
            every = list(self.book.jobs.values())
        return [job for job in every if launch_id is None or launch_id in job.body.labels.values()]

    def preempt(self, name: str) -> None:
        """Take the machines of the Spot job away that has this name, number or launch id. Raises ValueError when it has none."""
        with self.book.lock:
            self.book.tick()
            self.book.life.preempt(self._find(name), self.clock.now())
            self.book.tick()

    def show_state(self, name: str, number: int | None) -> None:
        """Let a job be seen in a state that no client knows; None shows the true one again."""
        with self.book.lock:
            self._find(name).shown_as = number

    def _find(self, name: str) -> Job:
        found = [job for job in self.jobs() if name in (job.name, job.key) or name in job.body.labels.values()]
        if len(found) != 1:
            raise ValueError(f"{len(found)} jobs are called {name}")
        return found[0]

    def _crews(self, runner: Runner | None) -> MakeCrew:
        if runner is not None:
            return make_host_crew(Stage(self.scene, self.store, runner, self.folder / "machines", self._services()))

        def timed(attempt: Attempt) -> TimedCrew:
            return TimedCrew(replicas_of(attempt.job), self.clock.now, self.scene.pace.timed_run, self.scene.timed_exit)

        return timed

    def _services(self) -> dict[str, str]:
        """What leads a job's own calls here instead of to Google."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GCE_METADATA_HOST": self.url.removeprefix("http://"),
            "GCE_METADATA_IP": self.url.removeprefix("http://"),  # Google's login asks here whether it is on a machine in the cloud
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"{self.url}/",
        }

    def _say(self, job: Job, at: datetime | None, text: str, replica: str = SERVICE_TASK) -> None:
        self.logs.add(job.key, replica, text, at)

    def _conduct(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.book.tick()

    def close(self) -> None:
        """End the servers and whatever still runs."""
        self._over.set()
        self._conductor.join(timeout=5)
        self._http.close()
        self._rpc.close()
        crews = [job.crew for job in self.book.jobs.values() if job.crew is not None]
        for crew in crews:
            crew.stop(0.0)
        for crew in crews:
            crew.wait(10.0)
