"""The process around the training: environment variables, threads, signals. Call ``prepare`` before torch is imported."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable
from types import FrameType

from cloudtune.recipe.locations import is_builtin, is_local_file, is_remote
from cloudtune.recipe.resolved import JobFile


def prepare(job: JobFile) -> None:
    """Set what libraries read at import time. Values that the user set stay."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if job.device == "cuda" else "false"  # CPU jobs share their machine
    # One growing segment instead of many: reserved memory then stays near allocated memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if not _needs_hub(job):
        # Without it bitsandbytes and transformers knock at the hub, and a closed network costs minutes of time-outs.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _needs_hub(job: JobFile) -> bool:
    base = job.recipe.model.base
    model = job.model_path is None and not is_builtin(base)
    data = any(not is_local_file(channel.path) and not is_remote(channel.path) for channel in (*job.train, *job.eval))
    return model or data or job.recipe.output.push_to_hub is not None


def quiet_transformers() -> None:
    """Our log says what happens; progress bars and advice for other programs would only hide it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def use_threads(job: JobFile) -> None:
    """One torch thread on the CPU: two on a shared two-core host were measured 14 times slower than one."""
    import torch

    if job.device == "cpu":
        torch.set_num_threads(int(os.environ.get("CLOUDTUNE_TORCH_THREADS", "1")))


class Interrupted(Exception):
    """SIGTERM arrived at a place where work can be left."""


class StopSign:
    """Whether the process was asked to end. The handler only sets the sign; the run looks at it between steps."""

    def __init__(self) -> None:
        self.up = False

    def listen(self) -> Callable[[], None]:
        """Raise the sign on SIGTERM and SIGINT from now on; returns what undoes it."""
        previous = {number: signal.signal(number, self._raise) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        return restore

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        self.up = True

    def check(self) -> None:
        """Raise Interrupted when the sign is up."""
        if self.up:
            raise Interrupted
