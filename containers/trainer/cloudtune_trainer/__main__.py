"""``python -m cloudtune_trainer``: exit 0 when done, 75 when interrupted after a checkpoint, 1 when failed.

Reads the orders before anything heavy is imported, so that bad ones are refused at once. With several GPUs this process
only starts one worker per GPU (``crew``); it also runs under torchrun.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer import crew, surroundings
from cloudtune_trainer.failure import Failure
from cloudtune_trainer.orders import is_finished, read_orders
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.report import say

COMPLETE, FAILED, INTERRUPTED = 0, 1, 75


def main() -> int:
    """Do the job of the folder that the environment names; the exit code."""
    paths = Paths.from_environment(os.environ)
    stop = surroundings.StopSign()
    stop.listen()
    with Failure(paths.failure):
        job = read_orders(paths.job_file)
        if is_finished(paths.manifest):
            say("this job is finished already; nothing to do")
            paths.failure.unlink(missing_ok=True)
            return COMPLETE
        surroundings.prepare(job)
        if crew.is_needed(job, os.environ):
            paths.failure.unlink(missing_ok=True)
            return crew.run(job, stop)
        return _work(job, paths, stop)
    return FAILED


def _work(job: JobFile, paths: Paths, stop: surroundings.StopSign) -> int:
    from cloudtune_trainer.train import train

    return INTERRUPTED if train(job, paths, stop) == "interrupted" else COMPLETE


def _end(code: int) -> NoReturn:
    """End the process; one of several workers ends without freeing its process group (``workers`` says why)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _end(main())
