"""Vertex AI's training quotas: which metrics a plan draws on, and what the project has of them. Separate from Compute Engine's.

The names of the newest cards' metrics are not documented: they are looked up by what they contain, not made up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cloudtune.planning.plan import Plan
    from cloudtune.providers.gcp.services import Services

_WORDS: Final[Mapping[str, str]] = {
    "NVIDIA_TESLA_T4": "t4", "NVIDIA_TESLA_V100": "v100", "NVIDIA_L4": "l4", "NVIDIA_TESLA_A100": "a100", "NVIDIA_A100_80GB": "a100_80gb",
    "NVIDIA_H100_80GB": "h100", "NVIDIA_H100_MEGA_80GB": "h100_mega", "NVIDIA_H200_141GB": "h200", "NVIDIA_B200": "b200",
    "NVIDIA_GB200": "gb200", "NVIDIA_RTX_PRO_6000": "rtx_pro_6000",
}  # fmt: skip
_CORES: Final = {"a2-highgpu-": 12, "a2-ultragpu-": 12, "a3-highgpu-": 26}


def metrics(plan: Plan) -> dict[str, int]:
    """Metric → how much of it the plan needs. Spot and flex-start draw on the preemptible ones."""
    kind = "" if plan.chosen.purchase in ("on_demand", "reserved") else "preemptible_"
    found = {f"custom_model_training_{kind}cpus": cores_of(plan.chosen.instance) * plan.layout.nodes}
    if plan.chosen.accelerator and plan.layout.gpus:
        word = _WORDS.get(plan.chosen.accelerator, plan.chosen.accelerator.removeprefix("NVIDIA_").lower())
        found[f"custom_model_training_{kind}nvidia_{word}_gpus"] = plan.layout.gpus * plan.layout.nodes
    return {name: amount for name, amount in found.items() if amount}


def cores_of(machine: str) -> int:
    """vCPUs of a machine type from its name; 0 where the name does not say."""
    for start, cores in _CORES.items():
        if machine.startswith(start):
            return cores * int(re.sub(r"\D", "", machine.rpartition("-")[2]) or 0)
    number = machine.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def limits(services: Services, project: str, region: str) -> dict[str, int]:
    """Short metric name → limit in the region, for every training quota. Raises AuthError without the right to look."""
    path = f"/v1/projects/{project}/locations/global/services/aiplatform.googleapis.com/quotaInfos"
    found: dict[str, int] = {}
    token = ""
    while True:
        answer = services.get("cloudquotas", path, {"pageSize": "500", **({"pageToken": token} if token else {})})
        for info in answer.get("quotaInfos", ()):
            name, value = str(info.get("metric", "")).rpartition("/")[2], _value(info.get("dimensionsInfos", ()), region)
            if name.startswith("custom_model_training") and value is not None:
                found[name] = value
        token = str(answer.get("nextPageToken") or "")
        if not token:
            return found


def _value(infos: Iterable[Mapping[str, Any]], region: str) -> int | None:
    """The limit that holds in the region; -1 stands for none."""
    for info in infos:
        if region in info.get("applicableLocations", ()) or info.get("dimensions", {}).get("region") == region:
            return int(info.get("details", {}).get("value", -1))
    return None
