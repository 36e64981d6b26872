"""One process per GPU of this machine: starts them, passes SIGTERM on, ends all when one fails. Imports no torch.

For the plain ``python -m cloudtune_trainer``; in images ``cloudtune_entry`` starts the workers, on several machines too.
torchrun alone would kill workers 30 seconds after SIGTERM and end with a code of its own, and we have a checkpoint to
write and 75 to say.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.surroundings import StopSign

SECONDS_TO_FOLLOW = 60.0
"""How long the others may go on after one has failed: they may be about to say why themselves."""


def is_needed(job: JobFile, environ: Mapping[str, str]) -> bool:
    """Whether this process should start workers: there are several, and nobody has started them yet."""
    return job.layout.data_parallel > 1 and "RANK" not in environ


def run(job: JobFile, stop: StopSign) -> int:
    """Start the workers and wait for them; the worst of their exit codes (1 before 75 before 0).

    Raises JobFailed for a job of several machines: who is who among them is known to the place that starts them.
    """
    if job.layout.nodes > 1:
        raise JobFailed(
            f"the job wants {job.layout.nodes} machines, and nobody has said which of them this is", hint="start it under torchrun"
        )
    port = _free_port()
    workers = [_start(rank, job.layout.gpus, port) for rank in range(job.layout.gpus)]
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


def _start(rank: int, count: int, port: int) -> subprocess.Popen[bytes]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
    return subprocess.Popen([sys.executable, "-m", "cloudtune_trainer"], env=environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(workers: list[subprocess.Popen[bytes]], *, kill: bool = False) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill() if kill else worker.terminate()
