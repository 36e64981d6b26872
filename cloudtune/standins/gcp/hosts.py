"""The crew of real programs: the container spec of each replica started by the shared runners, with Vertex AI's environment.

``AIP_*`` and ``CLUSTER_SPEC`` as the service sets them, buckets below ``/gcs``, lines to the log, SIGTERM with a grace.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtune.errors import CloudtuneError
from cloudtune.standins.gcp.crew import Attempt, replicas_of
from cloudtune.standins.gcp.mount import BucketView
from cloudtune.standins.gcp.objects import ObjectStore
from cloudtune.standins.gcp.scene import Scene
from cloudtune.standins.runner import Program, Runner, Running

SYNC_SECONDS = 0.3
NO_START = 128  # "failed to create containerd task"
OUR_ENTRYPOINT = ("python3", "-m", "cloudtune_entry", "train")
WORKER_PORT = 2222
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass
class Stage:
    """What every crew of a stand-in shares. ``services``: variables that lead a job's own calls to the stand-in."""

    scene: Scene
    store: ObjectStore
    runner: Runner
    folder: Path
    services: Mapping[str, str]


@dataclass
class _Host:
    """One replica's machine: its program at the moment, and how the last one ended."""

    replica: str
    folder: Path
    starts: int = 0
    running: Running | None = None
    code: int | None = None
    thread: threading.Thread | None = None


@dataclass
class HostCrew:
    """One attempt of a job on real programs."""

    stage: Stage
    attempt: Attempt
    hosts: dict[str, _Host] = field(default_factory=dict)
    _deadline: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> HostCrew:
        """Start every replica, each in a thread of its own."""
        for replica in replicas_of(self.attempt.job):
            key = self.attempt.name.rpartition("/")[2]
            folder = self.stage.folder / key / f"attempt-{self.attempt.number}" / replica
            self.hosts[replica] = _Host(replica, folder)
            self.restart(replica)
        return self

    def ended(self) -> Mapping[str, int]:
        return {name: host.code for name, host in self.hosts.items() if host.code is not None}

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        for host in self.hosts.values():
            if host.thread is not None:
                host.thread.join(max(0.0, end - time.monotonic()))
        return all(host.code is not None for host in self.hosts.values())

    def stop(self, grace: float) -> None:
        with self._lock:
            self._deadline = time.monotonic() + grace
            for host in self.hosts.values():
                if host.running is not None and host.code is None:
                    host.running.terminate()

    def restart(self, replica: str) -> None:
        """The replica's container again, from its beginning, on the same machine."""
        host = self.hosts[replica]
        host.starts += 1
        host.code = None
        host.thread = threading.Thread(target=self._run, args=(host,), daemon=True)
        host.thread.start()

    def _run(self, host: _Host) -> None:
        workplace = host.folder / f"start-{host.starts}"
        buckets = workplace / "gcs"
        buckets.mkdir(parents=True)
        workplace.chmod(0o755)
        view = BucketView(self.stage.store, buckets)
        view.sync(closed=True)
        try:
            running = self.stage.runner.start(self._program(host, workplace, buckets), self.attempt.on_line)
        except CloudtuneError as error:
            self.attempt.on_line(host.replica, f"failed to create containerd task: {error.what}")
            host.code = NO_START
            return
        with self._lock:
            host.running = running
            if self._deadline is not None:
                running.terminate()
        code, killed = None, False
        while code is None:
            code = running.wait(SYNC_SECONDS)
            view.sync()
            if code is None and not killed and self._deadline is not None and time.monotonic() > self._deadline:
                killed = True
                running.kill()
        view.sync(closed=not killed)
        host.code = code

    def _program(self, host: _Host, workplace: Path, buckets: Path) -> Program:
        spec = pool_of(self.attempt.job, host.replica).container_spec
        env = {**self.stage.services, **environment(self.attempt, host.replica, self.stage.scene)}
        for one in spec.env:
            env[one.name] = expanded(one.value, env)
        words = tuple(expanded(word, env) for word in (*(spec.command or ()), *spec.args))
        if not spec.command:  # the image's own entry point, which is taken to be that of our images
            words = (*OUR_ENTRYPOINT[:3], *(words or OUR_ENTRYPOINT[3:]))
        folders: dict[str, Path] = {"/gcs": buckets}
        if self.stage.runner.mode == "process":
            folders["/opt/ml"] = workplace / "ml"
            folders["/opt/ml"].mkdir()
        return Program(words, env, folders, workplace, host=host.replica, image=spec.image_uri)


def make_host_crew(stage: Stage) -> Callable[[Attempt], HostCrew]:
    """What the state machine calls when the machines of an attempt are there."""
    return lambda attempt: HostCrew(stage, attempt).begin()


def pool_of(job: Any, replica: str) -> Any:
    """The worker pool of a replica."""
    return job.job_spec.worker_pool_specs[int(replica.removeprefix("workerpool").partition("-")[0])]


def environment(attempt: Attempt, replica: str, scene: Scene) -> dict[str, str]:
    """The variables that Vertex AI sets in every container."""
    job: Any = attempt.job
    env = {
        "CLOUD_ML_JOB_ID": attempt.name.rpartition("/")[2],
        "CLOUD_ML_PROJECT_ID": str(scene.number),
        "CLUSTER_SPEC": json.dumps(cluster_spec(job, replica)),
    }
    base = job.job_spec.base_output_directory.output_uri_prefix
    if base:
        root = base.rstrip("/")
        env |= {
            "AIP_MODEL_DIR": f"{root}/model/",
            "AIP_CHECKPOINT_DIR": f"{root}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{root}/logs/",
        }
    return env


def cluster_spec(job: Any, replica: str) -> dict[str, Any]:
    """Every machine of the job is this one, so every host is 127.0.0.1, on ports apart."""
    cluster: dict[str, list[str]] = {}
    for number, name in enumerate(replicas_of(job)):
        cluster.setdefault(name.partition("-")[0], []).append(f"127.0.0.1:{WORKER_PORT + number}")
    pool, _, index = replica.partition("-")
    return {"cluster": cluster, "environment": "cloud", "task": {"type": pool, "index": int(index), "trial": ""}}


def expanded(text: str, env: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced where there is such a variable, ``$$`` a plain dollar: the rule of Kubernetes."""
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)
