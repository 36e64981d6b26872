"""Plans and settings for the tests of Vertex AI's request, limits and words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloudtune.job import LaunchId
from cloudtune.planning.plan import Plan
from cloudtune.providers.base import Staged
from cloudtune.providers.gcp.request import build_request
from tests import builders

DIGEST = "d" * 64
TRAINER = "trainer@my-project.iam.gserviceaccount.com"


@dataclass(frozen=True)
class Project:
    gcp_project: str | None = "my-project"
    gcp_bucket: str | None = "my-bucket"
    gcp_region: str | None = "us-central1"
    gcp_service_account: str | None = None
    gcp_repository: str | None = None
    gcp_endpoint: str | None = None


def gcp_plan(
    folder: Path,
    *,
    instance: str = "g2-standard-8",
    accelerator: str = "NVIDIA_L4",
    purchase: str = "on_demand",
    nodes: int = 1,
    gpus: int = 1,
    **changes: Any,
) -> Plan:
    """A plan for one L4 of Vertex AI at 1 USD per hour; ``gcp`` = compute.gcp, ``update`` = fields of the plan."""
    gcp, update, region = changes.pop("gcp", {}), changes.pop("update", {}), changes.pop("region", "us-central1")
    disk = changes.pop("disk_gib", 80)
    local = builders.plan(folder, compute={"provider": "gcp", "gcp": gcp, "disk_gib": disk}, **changes)
    chosen = {
        "provider": "gcp", "region": region, "instance": instance, "purchase": purchase, "gpu": "L4", "usd_per_hour": 1.0,
        "accelerator": accelerator,
    }  # fmt: skip
    return local.model_copy(
        update={
            "chosen": local.chosen.model_copy(update=chosen),
            "layout": replace(local.layout, gpus=gpus, nodes=nodes),
            "hours": 2.0, "hours_low": 1.0, "hours_high": 4.0, "usd": 2.0, "usd_low": 1.0, "usd_high": 4.0,
            **update,
        }
    )  # fmt: skip


def body_of(plan: Plan, *, launch_id: str = "little-abcdefghjk", settings: Project = Project(), **uris: str) -> dict[str, Any]:
    return dict(build_request(plan, Staged(DIGEST, uris), LaunchId(launch_id), settings).body)
