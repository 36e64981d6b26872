"""Plan → which machines to ask SageMaker for, in which order, and for how long. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudtune import cost
from cloudtune.errors import RejectedError
from cloudtune.providers.aws.instances import accelerated, has_local_disk
from cloudtune.providers.aws.limits import DAY, MAX_RUNTIME

if TYPE_CHECKING:
    from cloudtune.planning.plan import Candidate, Plan

MOST_PREFERENCES: Final = 5
STOP_SECONDS: Final = 300
"""Billed after the limit: 120 s between SIGTERM and SIGKILL, then the upload of what is there."""
PENDING_SECONDS: Final = 7_200
"""Waiting costs nothing; waits of 28 to 58 minutes for on-demand GPUs have been seen (2026-09)."""
SPOT_WAIT_SECONDS: Final = DAY
LEAST_UNLIMITED_SECONDS: Final = 7_200


@dataclass(frozen=True, slots=True)
class Machines:
    """Types in the order to try them, and how long the job may run in seconds so that the dearest of them keeps the budget."""

    types: tuple[str, ...]
    max_seconds: int


def machines(plan: Plan) -> Machines:
    """The chosen type and its fallbacks. Fallbacks exist on demand only, without a warm pool and without a training plan.

    Raises RejectedError for a fallback of the recipe that the plan has not shown to run its layout.
    """
    limit = _limit(plan)
    aws = plan.recipe.compute.aws
    if plan.chosen.purchase != "on_demand" or aws.keep_alive_minutes or aws.training_plan:
        return Machines((plan.chosen.instance,), limit)
    types, slowest = [plan.chosen.instance], plan.hours
    for candidate in _fallbacks(plan):
        shorter = min(limit, _affordable(plan, candidate))
        longest = max(slowest, candidate.hours)
        # One limit serves the whole list: a dear fallback must not cut the time that the others need.
        if candidate.instance not in types and shorter >= math.ceil(longest * 3600) and len(types) < MOST_PREFERENCES:
            types.append(candidate.instance)
            limit, slowest = shorter, longest
    return Machines(tuple(types), limit)


def _limit(plan: Plan) -> int:
    """Without budget and max_hours: twice the longest estimate, so that a job that hangs does not run (and cost) for ever."""
    unlimited = max(LEAST_UNLIMITED_SECONDS, math.ceil(2 * plan.hours_high * 3600))
    return min(MAX_RUNTIME, unlimited if plan.max_seconds is None else plan.max_seconds)


def _fallbacks(plan: Plan) -> tuple[Candidate, ...]:
    """Those that the recipe names, else the plan's own that stay within the upper price that the plan has shown."""
    named = plan.recipe.compute.aws.fallback_instances
    if not named:
        return tuple(one for one in plan.fallbacks if one.usd <= plan.usd_high)
    chosen = plan.chosen
    able = {one.instance: one for one in (*plan.candidates, *plan.fallbacks) if _same_way(plan, one)}
    unable = sorted(set(named) - able.keys() - {chosen.instance})
    if unable:
        raise RejectedError(
            f"compute.aws.fallback_instances: the plan for {chosen.instance} is not known to run on {', '.join(unable)}",
            code="fallback-unfit",
            hint=f"name some of: {', '.join(sorted(able.keys() - {chosen.instance})) or 'none fits beside it'}",
        )
    return tuple(able[name] for name in named if name in able)


def _same_way(plan: Plan, candidate: Candidate) -> bool:
    chosen = plan.chosen
    place = (candidate.provider, candidate.region, candidate.purchase) == (chosen.provider, chosen.region, chosen.purchase)
    return place and (candidate.layout == plan.layout or candidate in plan.fallbacks)


def _affordable(plan: Plan, candidate: Candidate) -> int:
    """Seconds that the budget pays for on a fallback; without a budget nothing limits it."""
    budget, nodes = plan.recipe.budget.max_usd, plan.layout.nodes
    if budget is None or candidate.hours <= 0:
        return MAX_RUNTIME
    seconds = cost.affordable_seconds(budget, candidate.usd / candidate.hours / nodes, nodes)
    return MAX_RUNTIME if seconds is None else seconds


def resource_config(plan: Plan, chosen: Machines) -> dict[str, Any]:
    """ResourceConfig: types, count, and for types without a disk of their own its size and key."""
    aws = plan.recipe.compute.aws
    config: dict[str, Any] = {"InstanceCount": plan.layout.nodes}
    if len(chosen.types) == 1:
        config["InstanceType"] = chosen.types[0]
    else:
        config["InstancePreferences"] = [{"InstanceType": name} for name in chosen.types]
    size = plan.resolved.compute.disk_gib
    if isinstance(size, int) and not all(has_local_disk(name) for name in chosen.types):
        config["VolumeSizeInGB"] = size
    if aws.kms_key and not any(has_local_disk(name) for name in chosen.types):
        config["VolumeKmsKeyId"] = aws.kms_key
    if aws.keep_alive_minutes:
        config["KeepAlivePeriodInSeconds"] = aws.keep_alive_minutes * 60
    if aws.training_plan:
        config["TrainingPlanArn"] = aws.training_plan
    return config


def stopping_condition(plan: Plan, chosen: Machines) -> dict[str, int]:
    """The limits that the service keeps whatever becomes of this machine. The stop itself is billed, so time is kept for it."""
    limited = plan.max_seconds is not None
    run = max(1, chosen.max_seconds - min(STOP_SECONDS, chosen.max_seconds // 10)) if limited else chosen.max_seconds
    condition = {"MaxRuntimeInSeconds": run}
    if plan.chosen.purchase == "spot":
        condition["MaxWaitTimeInSeconds"] = min(MAX_RUNTIME, run + SPOT_WAIT_SECONDS)
    elif all(accelerated(name) for name in chosen.types) and not plan.recipe.compute.aws.training_plan:
        condition["MaxPendingTimeInSeconds"] = PENDING_SECONDS
    return condition
