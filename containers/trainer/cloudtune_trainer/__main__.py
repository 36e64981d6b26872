"""``python -m cloudtune_trainer``: exit 0 when done, 75 when interrupted after a checkpoint, 1 when failed.

Reads the orders before anything heavy is imported, so that bad ones are refused at once.
"""

from __future__ import annotations

import os
import sys

from cloudtune_trainer import surroundings
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
            return COMPLETE
        surroundings.prepare(job)
        from cloudtune_trainer.train import train

        outcome = train(job, paths, stop)
        return INTERRUPTED if outcome == "interrupted" else COMPLETE
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
