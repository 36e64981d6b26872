"""Plans and settings for the tests of SageMaker's request, limits and words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloudtune.job import LaunchId
from cloudtune.planning.plan import Candidate, Plan
from cloudtune.providers.aws.request import build_request
from cloudtune.providers.base import Staged
from tests import builders

ROLE = "arn:aws:iam::123456789012:role/cloudtune-job"
DIGEST = "d" * 64


@dataclass(frozen=True)
class Account:
    aws_role: str | None = ROLE
    aws_bucket: str | None = "sagemaker-cloudtune"
    aws_region: str | None = None


def aws_plan(folder: Path, *, instance: str = "ml.g5.2xlarge", purchase: str = "on_demand", nodes: int = 1, **changes: Any) -> Plan:
    """A plan for one A10G of SageMaker at 1.5 USD per hour; ``aws`` = compute.aws, ``update`` = fields of the plan."""
    aws, update = changes.pop("aws", {}), changes.pop("update", {})
    local = builders.plan(folder, compute={"provider": "aws", "aws": aws, "disk_gib": 80}, **changes)
    chosen = {"provider": "aws", "region": "us-east-1", "instance": instance, "purchase": purchase, "gpu": "A10G", "usd_per_hour": 1.5}
    return local.model_copy(
        update={
            "chosen": local.chosen.model_copy(update=chosen),
            "layout": replace(local.layout, gpus=1, nodes=nodes),
            "hours": 2.0, "hours_low": 1.0, "hours_high": 4.0, "usd": 3.0, "usd_low": 1.5, "usd_high": 6.0,
            **update,
        }
    )  # fmt: skip


def candidate(plan: Plan, instance: str, *, usd: float = 4.0, hours: float = 2.0) -> Candidate:
    return Candidate(
        provider="aws", region="us-east-1", instance=instance, purchase=plan.chosen.purchase, hours=hours, usd=usd, risk_usd=usd,
        layout=plan.layout,
    )  # fmt: skip


def body_of(plan: Plan, *, launch_id: str = "little-abcdefghjk", **uris: str) -> dict[str, Any]:
    return dict(build_request(plan, Staged(DIGEST, uris), LaunchId(launch_id), Account()).body)
