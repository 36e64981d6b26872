"""Plan + staged files + launch id → the exact body of CreateCustomJob, as plain JSON. Pure; imports nothing of Google's.

Everything lies below one prefix of one bucket:

    gs://BUCKET/cloudtune/jobs/LAUNCH-ID/         base output: model/, checkpoints/, logs/ (AIP_* variables), output/ beside them
    gs://BUCKET/cloudtune/jobs/LAUNCH-ID/owner    which of several jobs of one launch may train (entry and launcher agree on it)
    gs://BUCKET/cloudtune/files/SHA256            data and job.json, kept once by content
    gs://BUCKET/cloudtune/not-staged/...          what a file is called before anything is uploaded

Secrets: job.json has their names and sources and the job fetches them with its service account. Not even the names are in
the body, because whoever may get the job reads its environment.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from cloudtune.errors import RejectedError, UsageError
from cloudtune.providers.base import Request
from cloudtune.providers.gcp.limits import LEAST_DISK_GB, MAX_FLEX_SECONDS, MAX_SECONDS, RESERVATION_KEY, require_valid
from cloudtune.providers.gcp.machines import MACHINES, boot_disk_type, needs_network_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Staged

PREFIX: Final = "cloudtune"
RUN_LABEL: Final = "cloudtune_run"
NONCE_LABEL: Final = "cloudtune_nonce"
STRATEGIES: Final = {"on_demand": "STANDARD", "reserved": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START"}
LEAST_UNLIMITED_SECONDS: Final = 7_200
FLEX_WAIT_SECONDS: Final = 86_400
"""Waiting for flex-start machines costs nothing; 24 hours is also Google's default, said so that nothing hangs on it."""
STOP_SECONDS: Final = 120
"""Kept back from a limit that follows from money: the end itself, with its last upload, is billed too."""
_FAST_NETWORK: Final = "source /usr/local/gib/scripts/set_nccl_env.sh && exec python3 -m cloudtune_entry train"


class GcpSettings(Protocol):
    """The settings that a request is made from."""

    @property
    def gcp_project(self) -> str | None: ...
    @property
    def gcp_bucket(self) -> str | None: ...
    @property
    def gcp_region(self) -> str | None: ...
    @property
    def gcp_service_account(self) -> str | None: ...


def request_builder(settings: GcpSettings) -> Callable[[Plan, Staged, LaunchId], Request]:
    """The function that a Place has as ``build_request``, for one project."""

    def build(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
        return build_request(plan, staged, launch_id, settings)

    return build


def build_request(plan: Plan, staged: Staged, launch_id: LaunchId, settings: GcpSettings) -> Request:
    """The request: equal arguments give an equal body. ``staged.uris``: channel path → URI, and ``image``.

    Raises UsageError for settings that are missing, RejectedError for a plan that Vertex AI would refuse.
    """
    project, bucket, region = account(settings, plan.chosen.region)
    _require_reachable(plan, settings)
    job = job_folder(bucket, launch_id)
    body: dict[str, Any] = {
        "parent": f"projects/{project}/locations/{region}",
        "customJob": {
            "displayName": f"cloudtune {launch_id}",
            "jobSpec": {
                "workerPoolSpecs": _pools(plan, staged, launch_id, _image(staged, project, region), bucket),
                "scheduling": _scheduling(plan),
                "baseOutputDirectory": {"outputUriPrefix": job},
                **_identity(plan, settings),
            },
            "labels": _labels(plan, launch_id),
            **({"encryptionSpec": {"kmsKeyName": key}} if (key := plan.recipe.compute.gcp.kms_key) else {}),
        },
    }
    nonce = hashlib.sha256(json.dumps([body, staged.digest], sort_keys=True).encode()).hexdigest()[:32]
    body["customJob"]["labels"][NONCE_LABEL] = nonce
    require_valid(body)
    return Request("gcp", launch_id, body)


def job_folder(bucket: str, launch_id: str) -> str:
    """The URI of a job's own folder."""
    return f"gs://{bucket}/{PREFIX}/jobs/{launch_id}"


_EXAMPLES: Final = {"gcp_project": "my-project", "gcp_bucket": "my-project-cloudtune", "gcp_region": "us-central1"}


def account(settings: GcpSettings, region: str | None = None) -> tuple[str, str, str]:
    """Project, bucket and region (the plan's is ``region``). Raises UsageError that names each missing setting and its variable."""
    values = {name: getattr(settings, name) for name in _EXAMPLES}
    set_region = values["gcp_region"]
    if region and set_region and region != set_region:
        raise UsageError(
            f"the setting gcp_region is {set_region}, and the plan is for {region}",
            code="region-mismatch",
            hint=f"plan with --set compute.regions=[{set_region}], or export CLOUDTUNE_GCP_REGION={region}",
        )
    missing = [name for name, value in values.items() if not value]
    if not missing:
        return str(values["gcp_project"]), str(values["gcp_bucket"]), str(set_region)
    shown = " ".join(f"CLOUDTUNE_{name.upper()}={region if name == 'gcp_region' and region else _EXAMPLES[name]}" for name in missing)
    keys = " and ".join(name.removeprefix("gcp_") for name in missing)
    raise UsageError(
        f"a job on gcp needs the setting{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
        code="setting-missing",
        hint=f"export {shown}, or write {keys} under [gcp] in cloudtune.toml",
    )


def repository(settings: object, project: str, region: str) -> str:
    """The Artifact Registry repository for our images: the setting, else ``cloudtune`` of the project in the job's region."""
    return str(getattr(settings, "gcp_repository", None) or f"{region}-docker.pkg.dev/{project}/cloudtune").rstrip("/")


def _image(staged: Staged, project: str, region: str) -> str:
    """The staged image by its digest, or a name that says that none is staged yet."""
    return staged.uris.get("image") or f"{region}-docker.pkg.dev/{project}/cloudtune/cloudtune-trainer:not-staged-{staged.digest[:16]}"


def _pools(plan: Plan, staged: Staged, launch_id: LaunchId, image: str, bucket: str) -> list[dict[str, Any]]:
    """Pool 0 is the one machine whose end ends the job; the others are pool 1, alike in everything."""
    pool = {
        "machineSpec": _machine(plan),
        "containerSpec": {"imageUri": image, **_start(plan), "env": _environment(plan, staged, launch_id, bucket)},
        "diskSpec": _disk(plan),
    }
    others = plan.layout.nodes - 1
    return [{**pool, "replicaCount": 1}, *([{**pool, "replicaCount": others}] if others else [])]


def _machine(plan: Plan) -> dict[str, Any]:
    spec: dict[str, Any] = {"machineType": plan.chosen.instance}
    if plan.chosen.accelerator:
        # A machine that comes with cards is asked for with them, also where a layout leaves them unused.
        count = plan.layout.gpus or min(MACHINES.get(plan.chosen.instance, {}).get(plan.chosen.accelerator, (1,)))
        spec |= {"acceleratorType": plan.chosen.accelerator, "acceleratorCount": count}
    reservation = plan.recipe.compute.gcp.reservation
    if reservation:
        spec["reservationAffinity"] = {
            "reservationAffinityType": "SPECIFIC_RESERVATION",
            "key": RESERVATION_KEY,
            "values": [reservation],
        }
    return spec


def _start(plan: Plan) -> dict[str, Any]:
    """The image's own entry point; behind Google's NCCL settings where several of the newest machines talk to each other."""
    if plan.layout.nodes > 1 and needs_network_script(plan.chosen.instance):
        return {"command": ["bash", "-c", _FAST_NETWORK]}
    return {"args": ["train"]}


def _disk(plan: Plan) -> dict[str, Any]:
    size = plan.resolved.compute.disk_gib
    wanted = size if isinstance(size, int) else LEAST_DISK_GB
    return {"bootDiskType": boot_disk_type(plan.chosen.instance), "bootDiskSizeGb": max(LEAST_DISK_GB, wanted)}


def _scheduling(plan: Plan) -> dict[str, Any]:
    """The limits that the service keeps whatever becomes of this machine."""
    strategy = STRATEGIES[plan.chosen.purchase]
    scheduling: dict[str, Any] = {
        "timeout": f"{timeout_seconds(plan)}s",
        "strategy": strategy,
        # Several machines meet once, at the start: one that comes back alone finds nobody, so all start again together.
        "restartJobOnWorkerRestart": plan.layout.nodes > 1,
        "disableRetries": False,
    }
    if strategy == "FLEX_START":
        scheduling["maxWaitDuration"] = f"{FLEX_WAIT_SECONDS}s"
    return scheduling


def timeout_seconds(plan: Plan) -> int:
    """How long the job may run, by budget and max_hours at this machine's dearest price; else twice the longest estimate."""
    longest = MAX_FLEX_SECONDS if plan.chosen.purchase == "flex_start" else MAX_SECONDS
    if plan.max_seconds is None:
        return min(longest, max(LEAST_UNLIMITED_SECONDS, math.ceil(2 * plan.hours_high * 3600)))
    return max(1, min(longest, plan.max_seconds - min(STOP_SECONDS, plan.max_seconds // 10)))


def _identity(plan: Plan, settings: GcpSettings) -> dict[str, str]:
    gcp = plan.recipe.compute.gcp
    found = {"serviceAccount": gcp.service_account or settings.gcp_service_account, "network": gcp.network}
    return {name: value for name, value in found.items() if value}


def _environment(plan: Plan, staged: Staged, launch_id: LaunchId, bucket: str) -> list[dict[str, str]]:
    """No secret, no name of one. CLOUDTUNE_INPUTS: where each input lies, by its path in the job."""
    values = {
        "CLOUDTUNE_LAUNCH_ID": launch_id,
        "CLOUDTUNE_RECIPE_DIGEST": plan.recipe_digest,
        "CLOUDTUNE_INPUTS": json.dumps(_inputs(plan, staged, bucket), sort_keys=True, separators=(",", ":")),
        "CLOUDTUNE_OWNER": f"{job_folder(bucket, launch_id)}/owner",
        "PYTHONUNBUFFERED": "1",
    }
    # The service expands $(NAME) inside values; a doubled dollar is taken as it is written.
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in sorted(values.items())]


def _inputs(plan: Plan, staged: Staged, bucket: str) -> dict[str, str]:
    """Path below the input folder → URI, of job.json and of what only this machine has."""
    from cloudtune.rendering.jobfile import TEMPLATE_NAME, bucket_inputs, local_inputs, template_file

    buckets = {item.channel: item.uri.rstrip("/") for item in bucket_inputs(plan)}
    # What is in Cloud Storage already is linked from where it is; what is in S3 was copied while staging.
    linked = {channel: uri for channel, uri in buckets.items() if uri.startswith("gs://")}
    paths = ["job/job.json", *([f"job/{TEMPLATE_NAME}"] if template_file(plan) else []), *(item.channel for item in local_inputs(plan))]
    paths += [channel for channel in buckets if channel not in linked]
    return {path: staged.uris.get(path) or f"gs://{bucket}/{PREFIX}/not-staged/{staged.digest}/{path}" for path in paths} | linked


def _require_reachable(plan: Plan, settings: GcpSettings) -> None:
    """Raises RejectedError for models and secrets that a job on Vertex AI could not reach."""
    from cloudtune.planning.promises import refuse_out_of_reach

    refuse_out_of_reach(plan.recipe, "gcp")
    secrets = plan.recipe.secrets
    foreign = sorted(name for name, source in secrets.items() if source.startswith("aws:"))
    if foreign:
        raise RejectedError(
            f"the source of the secret {', '.join(foreign)} is Amazon's, which a job on gcp cannot ask",
            code="secret-source",
            hint=f"write {foreign[0]}: gcp:secretmanager:NAME",
        )
    kept = sorted(name for name, source in secrets.items() if source.startswith("gcp:"))
    if kept and not (plan.recipe.compute.gcp.service_account or settings.gcp_service_account):
        raise RejectedError(
            f"the secret {', '.join(kept)} is read by the job's own service account, and none is set",
            code="setting-missing",
            hint="export CLOUDTUNE_GCP_SERVICE_ACCOUNT=trainer@my-project.iam.gserviceaccount.com with roles/secretmanager.secretAccessor",
        )


def _labels(plan: Plan, launch_id: LaunchId) -> dict[str, str]:
    """What `find`, `reconcile` and the billing export's readers need; keys without hyphens need no quotes in filters."""
    return {
        RUN_LABEL: label(launch_id),
        "cloudtune_recipe": label(plan.recipe.name),
        "cloudtune_digest": label(plan.recipe_digest),
        "cloudtune_version": label(plan.cloudtune_version),
    }


def label(text: str) -> str:
    """``text`` as a label's value: lower-case letters, digits, hyphen and underscore, at most 63."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]
