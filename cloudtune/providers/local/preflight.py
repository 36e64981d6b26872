"""What can be known to fail before a local job starts: training stack, GPU, disk space, secrets. Changes nothing."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, RejectedError, StagingError
from cloudtune.job import LaunchId
from cloudtune.providers.local.environment import trainer_environment
from cloudtune.units import gib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudtune.planning.plan import Plan

_STACK = ("torch", "transformers", "peft", "accelerate")


class LocalPreflight:
    """A Preflight of this machine. ``needs_stack``: the training stack must be here, and is not in an image."""

    def __init__(self, home: Path, *, needs_stack: bool = True) -> None:
        self._home = home
        self._needs_stack = needs_stack

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        """Every problem found; empty when the job may start."""
        return [problem for find in (self._stack, self._space, _inputs, _secrets) if (problem := find(plan)) is not None]

    def _stack(self, plan: Plan) -> CloudtuneError | None:
        return _stack(plan) if self._needs_stack else None

    def _space(self, plan: Plan) -> CloudtuneError | None:
        needs = sum(path.stat().st_size for path in _sources(plan) if path.is_file())
        place = next(path for path in (self._home, *self._home.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if needs <= free:
            return None
        return StagingError(
            f"the data needs {gib(needs)} and the disk has {gib(free)} free", where=str(place), hint="free some space or set CLOUDTUNE_HOME"
        )


def _stack(plan: Plan) -> CloudtuneError | None:
    wanted = [*_STACK, "bitsandbytes"] if hasattr(plan.recipe.method, "quantization") else list(_STACK)
    missing = [name for name in wanted if find_spec(name) is None]
    if not missing:
        return None
    return RejectedError(
        f"training on this machine needs {', '.join(missing)}", code="no-training-stack", hint="run: pip install 'cloudtune[train]'"
    )


def _inputs(plan: Plan) -> CloudtuneError | None:
    missing = [str(path) for path in _sources(plan) if not path.exists()]
    return StagingError("an input of the job is missing", where=missing[0], hint="run: cloudtune validate") if missing else None


def _secrets(plan: Plan) -> CloudtuneError | None:
    try:
        trainer_environment(LaunchId("preflight"), Path(), Path(), plan.recipe.secrets)
    except RejectedError as problem:
        return problem
    return None


def _sources(plan: Plan) -> list[Path]:
    from cloudtune.rendering.jobfile import local_inputs  # here, because ps connects to this place and needs no planner

    return [item.source for item in local_inputs(plan)]
