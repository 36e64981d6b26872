"""What Vertex AI takes in a custom job, as our own table, and a check that names every violation at once. Pure.

The body is the JSON form of CreateCustomJobRequest (v1). Read 2026-11-23 from the types of google-cloud-aiplatform 2.7.0 and
Google's pages on custom training; a member that we never send is not in the table and counts as a violation.
tests/unit/test_gcp_limits.py compares the names with the installed library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cloudtune.offers.disks import LEAST_GIB
from cloudtune.providers.checks import Flag, Items, Pairs, Text, Violation, Whole, check, members, refuse, with_fixes, words
from cloudtune.providers.gcp.machines import MACHINES, availability, boot_disk_type, pair_fault, purchase_fault

DAY: Final = 86_400
MAX_FLEX_SECONDS: Final = 7 * DAY
MAX_SECONDS: Final = 28 * DAY  # our own ceiling: Google names none beside the default of 7 days
LEAST_DISK_GB: Final = LEAST_GIB["gcp"]
RESERVATION_KEY: Final = "compute.googleapis.com/reservation-name"
ACCELERATORS: Final = words(
    "NVIDIA_TESLA_P100 NVIDIA_TESLA_V100 NVIDIA_TESLA_P4 NVIDIA_TESLA_T4 NVIDIA_TESLA_A100 NVIDIA_A100_80GB NVIDIA_L4 "
    "NVIDIA_H100_80GB NVIDIA_H100_MEGA_80GB NVIDIA_H200_141GB NVIDIA_B200 NVIDIA_GB200 NVIDIA_RTX_PRO_6000"
)
_LABEL_KEY = Text(63, 1, r"[a-z][a-z0-9_-]*")
_LABEL_VALUE = Text(63, 0, r"[a-z0-9_-]*")
_SECONDS = Text(16, 2, r"[0-9]+s")
_GCS = Text(1024, 6, r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^\s]*)?")
_RESERVATION = members(
    "reservationAffinityType", reservationAffinityType=words("NO_RESERVATION ANY_RESERVATION SPECIFIC_RESERVATION"),
    key=Text(200), values=Items(Text(300, 1, r"projects/[^/]+/zones/[^/]+/reservations/[^/]+"), 1, 1),
)  # fmt: skip
_MACHINE = members(
    "machineType", machineType=Text(64, 1, r"[a-z0-9-]+"), acceleratorType=ACCELERATORS, acceleratorCount=Whole(1, 16),
    reservationAffinity=_RESERVATION,
)  # fmt: skip
_CONTAINER = members(
    "imageUri", imageUri=Text(500, 1, r"[a-z0-9][\w.:/@-]*"), command=Items(Text(4096), 100, 1), args=Items(Text(4096), 100),
    env=Items(members("name value", name=Text(200, 1, r"[A-Za-z_][A-Za-z0-9_]*"), value=Text(32_768)), 100),
)  # fmt: skip
_POOL = members(
    "machineSpec replicaCount containerSpec diskSpec", machineSpec=_MACHINE, replicaCount=Whole(1), containerSpec=_CONTAINER,
    diskSpec=members(
        "bootDiskType bootDiskSizeGb", bootDiskType=words("pd-ssd pd-standard hyperdisk-balanced"),
        bootDiskSizeGb=Whole(LEAST_DISK_GB, 64_000),
    ),
)  # fmt: skip
_SCHEDULING = members(
    "timeout strategy", timeout=_SECONDS, strategy=words("STANDARD SPOT FLEX_START"), restartJobOnWorkerRestart=Flag(),
    disableRetries=Flag(), maxWaitDuration=_SECONDS,
)  # fmt: skip
_SPEC = members(
    # The last two are optional for the service; a job of ours never goes without a time limit or a place for its results.
    "workerPoolSpecs scheduling baseOutputDirectory", workerPoolSpecs=Items(_POOL, 2, 1), scheduling=_SCHEDULING,
    serviceAccount=Text(254, 6, r"[a-z0-9][a-z0-9._-]*@[a-z0-9.-]+\.[a-z]+"),
    network=Text(200, 1, r"projects/[^/]+/global/networks/[^/]+"),
    baseOutputDirectory=members("outputUriPrefix", outputUriPrefix=_GCS),
)  # fmt: skip
REQUEST: Final = members(
    "parent customJob", parent=Text(200, 1, r"projects/[^/]+/locations/[a-z0-9-]+"),
    customJob=members(
        "displayName jobSpec labels", displayName=Text(128, 1), jobSpec=_SPEC, labels=Pairs(_LABEL_KEY, _LABEL_VALUE, 64),
        encryptionSpec=members("kmsKeyName", kmsKeyName=Text(500, 1, r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")),
    ),
)  # fmt: skip

_POOLS: Final = "customJob.jobSpec.workerPoolSpecs"
_FIXES: Final = {
    "": "this is a fault of cloudtune: please report it",
    "parent": "set gcp_project (CLOUDTUNE_GCP_PROJECT) and gcp_region (CLOUDTUNE_GCP_REGION)",
    "customJob.displayName": "choose a shorter recipe name",
    "customJob.labels": "choose a shorter recipe name, or a job id of letters, digits and hyphens",
    "customJob.encryptionSpec": "write compute.gcp.kms_key as projects/P/locations/REGION/keyRings/R/cryptoKeys/K",
    "customJob.jobSpec.serviceAccount": "set gcp_service_account (CLOUDTUNE_GCP_SERVICE_ACCOUNT) to an account's e-mail",
    "customJob.jobSpec.network": "write compute.gcp.network as projects/NUMBER/global/networks/NAME",
    "customJob.jobSpec.baseOutputDirectory": "set gcp_bucket (CLOUDTUNE_GCP_BUCKET) to a bucket's name",
    "customJob.jobSpec.scheduling": "check compute.max_hours (at most 672, for flex_start 168) and compute.purchase",
    f"{_POOLS}.machineSpec": "see what there is with: cloudtune plan --provider gcp",
    f"{_POOLS}.machineSpec.reservationAffinity": "write compute.gcp.reservation as projects/P/zones/Z/reservations/NAME",
    f"{_POOLS}.replicaCount": "check compute.nodes",
    f"{_POOLS}.diskSpec": "check compute.disk_gib: at most 64000",
    f"{_POOLS}.containerSpec.imageUri": "check gcp_repository (CLOUDTUNE_GCP_REPOSITORY): REGION-docker.pkg.dev/PROJECT/REPOSITORY",
}


def violations(body: Mapping[str, Any]) -> tuple[Violation, ...]:
    """Every way in which ``body`` is not a custom job that Vertex AI would take; empty = none known."""
    found = list(check(REQUEST, body))
    return with_fixes(found or _rules(body), _FIXES)


def require_valid(body: Mapping[str, Any]) -> None:
    """Raises RejectedError, code ``request-limits``, that lists every violation with its path, the kind of value and the fix."""
    refuse("Vertex AI", violations(body))


def _rules(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What holds between members, from Google's prose; asked only of bodies whose members are each in order."""
    spec = body["customJob"]["jobSpec"]
    pools: Sequence[Mapping[str, Any]] = spec["workerPoolSpecs"]
    strategy = spec["scheduling"]["strategy"]
    region = body["parent"].rpartition("/")[2]
    for index, pool in enumerate(pools):
        yield from ((f"{_POOLS}[{index}].{path}", what) for path, what in _pool(pool, strategy, region))
    if pools[0]["replicaCount"] != 1:
        yield f"{_POOLS}[0].replicaCount", "must be 1: the first pool is the one machine that decides how the job ends"
    if len(pools) > 1 and pools[0]["machineSpec"] != pools[1]["machineSpec"]:
        yield f"{_POOLS}[1].machineSpec", "must be the same as in the first pool"
    yield from _times(spec["scheduling"], strategy)
    key = body["customJob"].get("encryptionSpec", {}).get("kmsKeyName", "")
    if key and f"/locations/{region}/" not in key:
        yield "customJob.encryptionSpec.kmsKeyName", "must lie in the job's own region"


def _pool(pool: Mapping[str, Any], strategy: str, region: str) -> Iterator[tuple[str, str]]:
    spec = pool["machineSpec"]
    machine, accelerator = spec["machineType"], spec.get("acceleratorType", "")
    fault = pair_fault(machine, accelerator, spec.get("acceleratorCount", 0))
    if fault:
        yield "machineSpec.machineType", fault
    elif machine in MACHINES and (unsold := purchase_fault(machine, accelerator, strategy, reserved="reservationAffinity" in spec)):
        yield "machineSpec.machineType", unsold
    if availability(region, accelerator) == "no":
        yield "machineSpec.acceleratorType", "is not there for training in the job's region"
    if pool["diskSpec"]["bootDiskType"] != boot_disk_type(machine) and boot_disk_type(machine) != "pd-ssd":
        yield "diskSpec.bootDiskType", f"must be {boot_disk_type(machine)} on this machine"


def _times(scheduling: Mapping[str, Any], strategy: str) -> Iterator[tuple[str, str]]:
    longest = MAX_FLEX_SECONDS if strategy == "FLEX_START" else MAX_SECONDS
    seconds = int(re.sub(r"\D", "", scheduling["timeout"]))
    if not 0 < seconds <= longest:
        yield "customJob.jobSpec.scheduling.timeout", f"is {seconds} s, must be 1 to {longest}"
    if ("maxWaitDuration" in scheduling) != (strategy == "FLEX_START"):
        yield "customJob.jobSpec.scheduling.maxWaitDuration", "must be there for flex-start, where 24 hours is the default, and only there"
