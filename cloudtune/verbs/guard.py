"""``guard``: should a running job go on? Pure and conservative: it looks at values, stops nothing and prefers to continue.

The provider holds the hard limits (a time limit from budget ÷ price); this is the second line, for what a provider
cannot see: a loss that is no number, a run that diverged, a process that hangs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.cost import run_usd
from cloudtune.job import JobState
from cloudtune.units import duration, usd

if TYPE_CHECKING:
    from cloudtune.job import JobView, Progress
    from cloudtune.planning.plan import Plan

BAD_LOSSES = 3
"""So many losses in a row that are no numbers end the run; a single one can be a skipped step."""
DIVERGED_LOSSES = 20
"""So many losses in a row far above the best end the run."""
QUIET_SECONDS = 30 * 60.0
"""Least time without any news before a training run counts as hung."""
QUIET_BEFORE_TRAINING_SECONDS = 2 * 3600.0
"""The same while the base model and the data are fetched and read."""
QUIET_STEPS = 20
"""A run counts as hung only after the time of so many steps."""
LIMIT_SLACK = 1.02
"""The provider's own limit comes first; this share on top lets it."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing is wrong that we can see."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The job should end; ``reason`` is one sentence for the user."""

    reason: str


def guard(view: JobView, plan: Plan, *, quiet_seconds: float = 0.0) -> Continue | Stop:
    """The verdict on one job. ``quiet_seconds``: how long its watcher, awake, has seen no change.

    No wall clock enters: a laptop that slept, or a clock that jumped, must not stop a healthy job.
    """
    if view.state is not JobState.RUNNING or view.stop_requested:
        return Continue()
    reasons = (
        _over_budget(view, plan),
        _over_time(view, plan),
        _no_number(view.progress),
        _diverged(view.progress),
        _hung(view, plan, quiet_seconds),
    )
    return next((Stop(reason) for reason in reasons if reason), Continue())


def _run_seconds(view: JobView) -> float | None:
    """Seconds that are paid for: the provider's count, else the trainer's own, else unknown."""
    if view.billable_seconds is not None:
        return view.billable_seconds
    return view.progress.elapsed_seconds if view.progress else None


def _over_budget(view: JobView, plan: Plan) -> str:
    limit, seconds = plan.recipe.budget.max_usd, _run_seconds(view)
    if limit is None or seconds is None:
        return ""
    spent = run_usd(seconds / 3600, plan.chosen.usd_per_hour, plan.layout.nodes)
    return f"the budget of {usd(limit)} is spent ({usd(spent)})" if spent > limit * LIMIT_SLACK else ""


def _over_time(view: JobView, plan: Plan) -> str:
    limit, seconds = plan.recipe.compute.max_hours, _run_seconds(view)
    if limit is None or seconds is None or seconds <= limit * 3600 * LIMIT_SLACK:
        return ""
    return f"it has run for {duration(seconds)}, longer than max_hours allows ({duration(limit * 3600)})"


def _no_number(progress: Progress | None) -> str:
    newest = progress.losses[-BAD_LOSSES:] if progress else ()
    if len(newest) < BAD_LOSSES or any(math.isfinite(loss) for loss in newest):
        return ""
    return f"the loss is {newest[-1]} for {BAD_LOSSES} readings; a lower learning rate or bfloat16 usually helps"


def _diverged(progress: Progress | None) -> str:
    """Every one of the newest losses is far above the best before them: more than twice it and by more than 2 nats."""
    losses = [loss for loss in progress.losses if math.isfinite(loss)] if progress else []
    earlier, newest = losses[:-DIVERGED_LOSSES], losses[-DIVERGED_LOSSES:]
    if not earlier or len(newest) < DIVERGED_LOSSES:
        return ""
    best = min(earlier)
    if min(newest) <= max(2 * best, best + 2):
        return ""
    return f"the loss rose from {best:.2f} to {newest[-1]:.2f} and stays there; a lower learning rate usually helps"


def _hung(view: JobView, plan: Plan, quiet_seconds: float) -> str:
    step_seconds = plan.hours * 3600 / max(1, plan.steps)
    progress = view.progress
    training = progress is not None and bool(progress.step)
    if progress is not None and progress.step and progress.elapsed_seconds:
        step_seconds = max(step_seconds, progress.elapsed_seconds / progress.step)
    allowed = max(QUIET_SECONDS if training else QUIET_BEFORE_TRAINING_SECONDS, QUIET_STEPS * step_seconds)
    return f"nothing has changed for {duration(quiet_seconds)}" if quiet_seconds > allowed else ""
