"""One process per GPU: starts them, passes SIGTERM on, and ends them all when one fails. Trains nothing, imports no torch.

torchrun would do for starting, but it kills workers 30 seconds after SIGTERM and ends with its own exit code, and we
have a checkpoint to write and 75 to say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.surroundings import StopSign

PORT = 29400
SECONDS_TO_FOLLOW = 60.0
"""How long the others may go on after one has failed: they may be about to say why themselves."""


@dataclass(frozen=True, slots=True)
class Node:
    """This machine among the job's: its place, and the address of the first."""

    place: int
    first: str


def is_needed(job: JobFile, environ: Mapping[str, str]) -> bool:
    """Whether this process should start workers: there are several, and nobody has started them yet."""
    return job.layout.data_parallel > 1 and "RANK" not in environ


def find_node(job: JobFile, paths: Paths, environ: Mapping[str, str]) -> Node:
    """This machine's place, from what SageMaker (resourceconfig.json) or Vertex AI (CLUSTER_SPEC) tell every machine."""
    if job.layout.nodes == 1:
        return Node(0, "127.0.0.1")
    told = paths.root / "input" / "config" / "resourceconfig.json"
    if told.is_file():
        config = json.loads(told.read_text(encoding="utf-8"))
        hosts = sorted(config["hosts"])
        return Node(hosts.index(config["current_host"]), hosts[0])
    if "CLUSTER_SPEC" in environ:
        spec = json.loads(environ["CLUSTER_SPEC"])
        pools, task = spec["cluster"], spec["task"]
        before = sum(len(pools[pool]) for pool in sorted(pools) if pool < task["type"])
        return Node(before + int(task["index"]), pools[min(pools)][0].split(":")[0])
    raise JobFailed(f"the job has {job.layout.nodes} machines, and nothing here says which of them this is")


def run(job: JobFile, paths: Paths, stop: StopSign) -> int:
    """Start this machine's workers and wait for them; the worst of their exit codes (1 before 75 before 0)."""
    node = find_node(job, paths, os.environ)
    here = max(1, job.layout.gpus)
    workers = [_start(rank, here, node, job.layout.data_parallel) for rank in range(here)]
    told = False
    failed_at: float | None = None
    while any(worker.poll() is None for worker in workers):
        if stop.up and not told:
            told = True
            _signal(workers)
        if failed_at is None and any(worker.returncode not in (None, 0, 75) for worker in workers):
            failed_at = time.monotonic()
            _signal(workers)
        if failed_at is not None and time.monotonic() - failed_at > SECONDS_TO_FOLLOW:
            _signal(workers, kill=True)
        time.sleep(0.2)
    codes = {worker.returncode for worker in workers}
    return 0 if codes == {0} else 75 if codes <= {0, 75} else 1


def _start(rank: int, here: int, node: Node, count: int) -> subprocess.Popen[bytes]:
    place = {"RANK": node.place * here + rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": PORT}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "MASTER_ADDR": node.first}
    return subprocess.Popen([sys.executable, "-m", "cloudtune_trainer"], env=environment)


def _signal(workers: list[subprocess.Popen[bytes]], *, kill: bool = False) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill() if kill else worker.terminate()
