"""What CreateCustomJob refuses before it makes a job, and the words in which it does. Looks at protos; keeps nothing.

Words in quotation marks were read in public issues and on Google's pages; where none was found the sentence is ours and
says the rule. Faults of fields come all at once, as Vertex AI lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cloudtune.standins.gcp import machines
from cloudtune.standins.gcp.answers import ApiError
from cloudtune.standins.gcp.scene import Scene

SPOT, FLEX_START = 4, 6
WEEK = 7 * 24 * 3600
MOST_POOLS = 4
MOST_ENV = 100
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(
    r"[a-z0-9.-]+\.pkg\.dev/\S+|([a-z]+\.)?gcr\.io/\S+|docker\.io/\S+|(127\.0\.0\.1:\d+/)?[a-z0-9][a-z0-9._/-]*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?"
)
_NETWORK = re.compile(r"projects/\d+/global/networks/[a-z0-9-]+")
_KMS = re.compile(r"projects/[^/]+/locations/([^/]+)/keyRings/[^/]+/cryptoKeys/[^/]+")
_DISKS = ("", "pd-ssd", "pd-standard", "hyperdisk-balanced")

Faults = Iterator[tuple[str, str]]


def check_job(job: Any, region: str, scene: Scene) -> None:
    """Raises ApiError for the first kind of fault: fields, then machines, then the service account."""
    faults = list(_fields(job))
    if faults:
        raise invalid_fields(faults)
    spec = job.job_spec
    for index, pool in enumerate(spec.worker_pool_specs):
        _check_machine(pool.machine_spec, f"job_spec.worker_pool_specs[{index}].machine_spec", region)
    _check_strategy(spec)
    if spec.service_account and spec.service_account in scene.strangers | _nobody(spec.service_account, scene):
        raise ApiError(
            "INVALID_ARGUMENT", f"You do not have permission to act as service_account: {spec.service_account}. (or it may not exist)."
        )


def invalid_fields(faults: list[tuple[str, str]]) -> ApiError:
    """Every fault in one message, numbered, as Vertex AI writes it."""
    listed = "".join(f"\t{number}.Field: {place}; Message: {text}" for number, (place, text) in enumerate(faults, 1))
    return ApiError("INVALID_ARGUMENT", f"List of found errors:{listed}\t")


def _nobody(account: str, scene: Scene) -> set[str]:
    """An account of another shape or of another project is nobody's here."""
    if "iam.serviceAccounts.actAs" in scene.denied or not account.endswith(
        (f"@{scene.project}.iam.gserviceaccount.com", "@developer.gserviceaccount.com")
    ):
        return {account}
    return set()


def _fields(job: Any) -> Faults:
    if not job.display_name:
        yield "custom_job.display_name", "Required field is not set."
    elif len(job.display_name) > 128:
        yield "custom_job.display_name", "The display name must be at most 128 characters long."
    yield from _labels(job)
    spec = job.job_spec
    if not spec.worker_pool_specs:
        yield "job_spec.worker_pool_specs", "Required field is not set."
    if len(spec.worker_pool_specs) > MOST_POOLS:
        yield "job_spec.worker_pool_specs", f"At most {MOST_POOLS} worker pools may be specified."
    for index, pool in enumerate(spec.worker_pool_specs):
        yield from _pool(pool, index, f"job_spec.worker_pool_specs[{index}]")
    yield from _scheduling(spec.scheduling)
    yield from _surroundings(job)


def _labels(job: Any) -> Faults:
    if len(job.labels) > 64:
        yield "custom_job.labels", "No more than 64 labels can be associated with a resource."
    for key, value in job.labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            text = "can only contain lowercase letters, numeric characters, underscores and dashes, and are at most 63 characters long"
            yield "custom_job.labels", f"Invalid label {key}={value}: keys and values {text}."


def _pool(pool: Any, index: int, place: str) -> Faults:
    if index == 0 and pool.replica_count != 1:
        yield f"{place}.replica_count", "The replica count of the first worker pool must be 1."
    if pool.replica_count < 0 or (index and pool.replica_count == 0 and pool.machine_spec.machine_type):
        yield f"{place}.replica_count", "The replica count must be positive."
    if bool(pool.container_spec.image_uri) == bool(pool.python_package_spec.executor_image_uri):
        yield f"{place}.task", "Exactly one of `container_spec` and `python_package_spec` must be specified."
    elif pool.container_spec.image_uri and not _IMAGE.fullmatch(pool.container_spec.image_uri):
        yield f"{place}.container_spec.image_uri", f"The image URI {pool.container_spec.image_uri} is invalid."
    yield from _env(pool.container_spec.env, f"{place}.container_spec.env")
    disk = pool.disk_spec
    if disk.boot_disk_type not in _DISKS:
        yield f"{place}.disk_spec.boot_disk_type", f"Boot disk type {disk.boot_disk_type} is not supported."
    if disk.boot_disk_size_gb and not 100 <= disk.boot_disk_size_gb <= 64000:
        yield f"{place}.disk_spec.boot_disk_size_gb", "The boot disk size must be between 100 and 64000 GB."
    gpu, count = pool.machine_spec.accelerator_type, pool.machine_spec.accelerator_count
    if bool(gpu) != bool(count):
        yield f"{place}.machine_spec.accelerator_type", "Both `accelerator_type` and `accelerator_count` should be specified or none."
    if not pool.machine_spec.machine_type:
        yield f"{place}.machine_spec.machine_type", "Required field is not set."
    affinity = pool.machine_spec.reservation_affinity
    if int(affinity.reservation_affinity_type) == 3 and (affinity.key != "compute.googleapis.com/reservation-name" or not affinity.values):
        yield f"{place}.machine_spec.reservation_affinity", "SPECIFIC_RESERVATION needs the key and the name of a reservation."


def _env(env: Any, place: str) -> Faults:
    names = [one.name for one in env]
    if len(names) > MOST_ENV:
        yield place, f"At most {MOST_ENV} environment variables can be specified."
    for name in names:
        if not _VARIABLE.fullmatch(name):
            yield place, f"The name of the environment variable {name} must be a valid C identifier."
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield place, f"The environment variable {name} is specified more than once."


def _scheduling(scheduling: Any) -> Faults:
    timeout = seconds_of(scheduling, "timeout")
    if timeout is not None and timeout < 0:
        yield "job_spec.scheduling.timeout", "The timeout must not be negative."
    wait = seconds_of(scheduling, "max_wait_duration")
    if wait is not None and wait < 0:
        yield "job_spec.scheduling.max_wait_duration", "The duration must not be negative."
    if int(scheduling.strategy) == FLEX_START and (timeout or WEEK) > WEEK:
        yield "job_spec.scheduling.timeout", "The timeout of a job with the strategy FLEX_START must be at most 7 days."


def seconds_of(message: Any, name: str) -> float | None:
    """A Duration field in seconds; None when it is not set."""
    if not message._pb.HasField(name):  # noqa: SLF001 - proto-plus gives no other way to tell unset from zero
        return None
    value = getattr(message._pb, name)  # noqa: SLF001
    return float(value.seconds) + float(value.nanos) / 1e9


def _surroundings(job: Any) -> Faults:
    spec = job.job_spec
    output = spec.base_output_directory.output_uri_prefix
    if output and not re.fullmatch(r"gs://[a-z0-9][a-z0-9_.-]+(/.*)?", output):
        yield "job_spec.base_output_directory.output_uri_prefix", f"Invalid Cloud Storage URI: {output}"
    if spec.network and not _NETWORK.fullmatch(spec.network):
        yield "job_spec.network", "The network must have the form projects/{project_number}/global/networks/{network}."
    if spec.tensorboard and not spec.service_account:
        yield "job_spec.service_account", "A service account must be specified when `tensorboard` is."
    key = job.encryption_spec.kms_key_name
    if key and not _KMS.fullmatch(key):
        yield "custom_job.encryption_spec.kms_key_name", f"Invalid KMS key name: {key}"


def _check_machine(machine: Any, place: str, region: str) -> None:
    name = machine.machine_type
    if not machines.known(name):
        raise invalid_fields([(f"{place}.machine_type", f'Machine type "{name}" is not supported.')])
    gpu, count = gpu_name(machine), int(machine.accelerator_count)
    if name in machines.FIXED and not gpu:
        own, number = machines.FIXED[name]
        raise invalid_fields([(f"{place}.accelerator_type", f'Machine type "{name}" requires {number} accelerators of type "{own}".')])
    if not gpu:
        return
    legal = machines.counts(name, gpu)
    if not legal:
        raise ApiError("INVALID_ARGUMENT", f'Accelerator "{gpu}" is not supported for machine type "{name}".')
    if count not in legal:
        numbers = ", ".join(map(str, legal))
        raise ApiError(
            "INVALID_ARGUMENT", f'Accelerator count {count} of "{gpu}" is not supported for machine type "{name}"; valid: {numbers}.'
        )
    if not machines.trains_in(gpu, region):
        raise ApiError("INVALID_ARGUMENT", f'Accelerator "{gpu}" is not supported for custom training in region {region}.')


def gpu_name(machine: Any) -> str:
    """The name of the GPU, empty for none; a number that this library does not know stays one."""
    value = machine.accelerator_type
    return str(getattr(value, "name", value)) if value else ""


def _check_strategy(spec: Any) -> None:
    strategy = int(spec.scheduling.strategy)
    pools = [pool for pool in spec.worker_pool_specs if pool.replica_count]
    for pool in pools:
        machine = pool.machine_spec
        reserved = int(machine.reservation_affinity.reservation_affinity_type) in (2, 3)
        if strategy == FLEX_START and gpu_name(machine) not in machines.FLEX_GPUS:
            raise ApiError("INVALID_ARGUMENT", f'The strategy FLEX_START does not support machine type "{machine.machine_type}".')
        if strategy not in (SPOT, FLEX_START) and machine.machine_type in machines.NEVER_STANDARD and not reserved:
            raise ApiError(
                "INVALID_ARGUMENT", f'Machine type "{machine.machine_type}" is available with the strategies SPOT and FLEX_START only.'
            )
        if machine.machine_type in machines.RESERVED_ONLY and not reserved:
            raise ApiError("INVALID_ARGUMENT", f'Machine type "{machine.machine_type}" requires a shared reservation.')
    shapes = {
        (pool.machine_spec.machine_type, int(pool.machine_spec.accelerator_type), pool.machine_spec.accelerator_count) for pool in pools
    }
    if strategy == FLEX_START and len(shapes) > 1:
        raise ApiError("INVALID_ARGUMENT", "The strategy FLEX_START requires the same machine configuration for all worker pools.")


def metrics_needed(job: Any) -> dict[str, int]:
    """Short quota metric → how much of it the job takes. Spot and Flex-start take the preemptible ones."""
    needed: dict[str, int] = {}
    preemptible = "preemptible_" if int(job.job_spec.scheduling.strategy) in (SPOT, FLEX_START) else ""
    for pool in job.job_spec.worker_pool_specs:
        machine, replicas = pool.machine_spec, int(pool.replica_count)
        family = "c2_" if machine.machine_type.startswith("c2-") else ""
        cpus = f"custom_model_training_{preemptible}{family}cpus"
        needed[cpus] = needed.get(cpus, 0) + replicas * machines.vcpus(machine.machine_type)
        word = machines.METRIC_WORDS.get(gpu_name(machine))
        if word:
            gpus = f"custom_model_training_{preemptible}nvidia_{word}_gpus"
            needed[gpus] = needed.get(gpus, 0) + replicas * int(machine.accelerator_count)
    return needed
