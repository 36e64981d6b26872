"""What CreateCustomJob refuses, each rule by a job that breaks it and one beside it that does not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudtune.standins.gcp import machines
from cloudtune.standins.gcp.cloud import GcpStandin
from tests.standins.gcp_jobs import L4, grpc_client, job, parent, rest_client

SPOT, FLEX = 4, 6
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcpStandin]:
    with GcpStandin.start(tmp_path_factory.mktemp("rules") / "gcp", mode="timed", speed=0) as running:
        running.scene.strangers.add("stranger@cloudtune-standin.iam.gserviceaccount.com")
        yield running


@pytest.fixture(scope="module")
def client(cloud: GcpStandin) -> Any:
    return grpc_client(cloud)


def pool(body: dict[str, Any], index: int = 0) -> Any:
    return body["job_spec"]["worker_pool_specs"][index]


def refusal(cloud: GcpStandin, client: Any, body: dict[str, Any], region: str = "us-central1") -> str:
    """The service's sentence; fails when the job is taken."""
    from google.api_core.exceptions import InvalidArgument

    before = len(cloud.jobs())
    with pytest.raises(InvalidArgument) as caught:
        client.create_custom_job(parent=parent(cloud, region), custom_job=body)
    assert len(cloud.jobs()) == before
    return str(caught.value.message)


def env(*names: str) -> Change:
    return lambda body: pool(body)["container_spec"].update(env=[{"name": name, "value": "1"} for name in names])


FIELDS: list[tuple[str, Change, str, str]] = [
    ("no name", lambda body: body.update(display_name=""), "custom_job.display_name", "Required field is not set."),
    ("a long name", lambda body: body.update(display_name="x" * 129), "custom_job.display_name", "at most 128"),
    ("no pools", lambda body: body["job_spec"].update(worker_pool_specs=[]), "job_spec.worker_pool_specs", "Required"),
    ("a capital in a label", lambda body: body.update(labels={"run": "ABC"}), "custom_job.labels", "lowercase letters"),
    ("a dot in a label's key", lambda body: body.update(labels={"a.b": "c"}), "custom_job.labels", "lowercase letters"),
    ("a long label", lambda body: body.update(labels={"run": "x" * 64}), "custom_job.labels", "at most 63 characters"),
    ("65 labels", lambda body: body.update(labels={f"k{n}": "v" for n in range(65)}), "custom_job.labels", "No more than 64"),
    ("two primaries", lambda body: pool(body).update(replica_count=2), "worker_pool_specs[0].replica_count", "must be 1"),
    ("no image", lambda body: pool(body).update(container_spec={}), "worker_pool_specs[0].task", "Exactly one of"),
    ("no machine", lambda body: pool(body)["machine_spec"].update(machine_type=""), "machine_spec.machine_type", "Required"),
    ("GPU without a number", lambda body: pool(body)["machine_spec"].update(accelerator_count=0), "machine_spec.accelerator_type",
     "Both `accelerator_type` and `accelerator_count` should be specified or none."),
    ("a small disk", lambda body: pool(body).update(disk_spec={"boot_disk_size_gb": 50}), "boot_disk_size_gb", "between 100 and 64000"),
    ("a strange disk", lambda body: pool(body).update(disk_spec={"boot_disk_type": "floppy"}), "disk_spec.boot_disk_type", "floppy"),
    ("a variable with a hyphen", env("A-B"), "container_spec.env", "valid C identifier"),
    ("101 variables", env(*(f"V{number}" for number in range(101))), "container_spec.env", "At most 100"),
    ("a variable twice", env("A", "A"), "container_spec.env", "more than once"),
    ("a negative timeout", lambda body: body["job_spec"]["scheduling"].update(timeout={"seconds": -5}), "scheduling.timeout", "negative"),
    ("output elsewhere", lambda body: body["job_spec"].update(base_output_directory={"output_uri_prefix": "s3://b/x"}),
     "base_output_directory.output_uri_prefix", "Invalid Cloud Storage URI"),
    ("a network by name", lambda body: body["job_spec"].update(network="projects/p/global/networks/default"),
     "job_spec.network", "project_number"),
    ("TensorBoard without an account", lambda body: body["job_spec"].update(tensorboard="projects/1/locations/us-central1/tensorboards/2"),
     "job_spec.service_account", "must be specified"),
    ("a strange key", lambda body: body.update(encryption_spec={"kms_key_name": "my-key"}), "encryption_spec.kms_key_name", "my-key"),
    ("a reservation without a name", lambda body: pool(body)["machine_spec"].update(reservation_affinity={"reservation_affinity_type": 3}),
     "machine_spec.reservation_affinity", "name of a reservation"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place", "text"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_a_field_is_refused_with_its_place(cloud: GcpStandin, client: Any, change: Change, place: str, text: str) -> None:
    body = job()
    client.create_custom_job(parent=parent(cloud), custom_job=body)
    broken = copy.deepcopy(body)
    change(broken)
    sentence = refusal(cloud, client, broken)
    assert sentence.startswith("List of found errors:\t1.Field: ")
    assert f"{place}; Message: " in sentence
    assert text in sentence


def test_every_fault_is_listed_at_once(cloud: GcpStandin, client: Any) -> None:
    body = job()
    body["display_name"] = ""
    pool(body)["disk_spec"] = {"boot_disk_size_gb": 1}
    assert "\t2.Field: job_spec.worker_pool_specs[0].disk_spec.boot_disk_size_gb; " in refusal(cloud, client, body)


def machine(name: str, gpu: str = "", count: int = 0) -> dict[str, Any]:
    return {"machine_type": name, **({"accelerator_type": gpu, "accelerator_count": count} if gpu else {})}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (machine("n1-standard-1", "NVIDIA_TESLA_T4", 1), 'Machine type "n1-standard-1" is not supported.'),
        (machine("g4-standard-24", "NVIDIA_RTX_PRO_6000", 1), 'Machine type "g4-standard-24" is not supported.'),
        (
            machine("g2-standard-8", "NVIDIA_TESLA_T4", 1),
            'Accelerator "NVIDIA_TESLA_T4" is not supported for machine type "g2-standard-8".',
        ),
        (
            machine("e2-standard-8", "NVIDIA_TESLA_T4", 1),
            'Accelerator "NVIDIA_TESLA_T4" is not supported for machine type "e2-standard-8".',
        ),
        (machine("n1-standard-8", "NVIDIA_TESLA_P100", 1), 'Accelerator "NVIDIA_TESLA_P100" is not supported'),
        (machine("n1-standard-32", "NVIDIA_TESLA_T4", 1), 'Accelerator count 1 of "NVIDIA_TESLA_T4" is not supported'),
        (machine("g2-standard-24", "NVIDIA_L4", 1), "valid: 2."),
        (machine("g2-standard-8"), 'requires 1 accelerators of type "NVIDIA_L4"'),
        (machine("a3-highgpu-1g", "NVIDIA_H100_80GB", 1), "SPOT and FLEX_START only"),
        (machine("a4x-highgpu-4g", "NVIDIA_GB200", 4), "requires a shared reservation"),
    ],
)
def test_machines_and_gpus_must_fit(cloud: GcpStandin, client: Any, spec: dict[str, Any], text: str) -> None:
    assert text in refusal(cloud, client, job(machine=spec))


def test_every_legal_pair_is_taken(cloud: GcpStandin, client: Any) -> None:
    taken = 0
    for name, (gpu, count) in machines.FIXED.items():
        strategy = SPOT if name in machines.NEVER_STANDARD else 3
        body = job(machine=machine(name, gpu, count), strategy=strategy)
        if name in machines.RESERVED_ONLY:
            key = "compute.googleapis.com/reservation-name"
            affinity = {"reservation_affinity_type": 3, "key": key, "values": ["projects/p/zones/z/reservations/r"]}
            pool(body)["machine_spec"]["reservation_affinity"] = affinity
        client.create_custom_job(parent=parent(cloud), custom_job=body)
        taken += 1
    for spec in (machine("n1-standard-8", "NVIDIA_TESLA_T4", 2), machine("n1-highmem-8"), machine("c2-standard-16")):
        client.create_custom_job(parent=parent(cloud), custom_job=job(machine=spec))
        taken += 1
    assert taken == len(machines.FIXED) + 3 >= 32


@pytest.mark.parametrize(("spec", "region"), [(L4, "europe-west1"), (machine("g4-standard-48", "NVIDIA_RTX_PRO_6000", 1), "us-west1")])
def test_a_gpu_must_be_for_training_in_the_region(cloud: GcpStandin, client: Any, spec: dict[str, Any], region: str) -> None:
    assert f"is not supported for custom training in region {region}" in refusal(cloud, client, job(machine=spec), region)
    client.create_custom_job(parent=parent(cloud, "us-east4"), custom_job=job(machine=spec))


def test_a_region_must_exist(cloud: GcpStandin, client: Any) -> None:
    assert "Unsupported region" in refusal(cloud, client, job(), "us-middle7")


def test_flex_start_has_its_own_rules(cloud: GcpStandin, client: Any) -> None:
    assert "does not support machine type" in refusal(
        cloud, client, job(machine=machine("n1-standard-8", "NVIDIA_TESLA_T4", 1), strategy=FLEX)
    )
    assert "at most 7 days" in refusal(cloud, client, job(strategy=FLEX, timeout={"seconds": 8 * 86400}))
    uneven = job(pools=2, strategy=FLEX)
    pool(uneven, 1)["machine_spec"] = machine("g2-standard-12", "NVIDIA_L4", 1)
    assert "same machine configuration" in refusal(cloud, client, uneven)
    uneven["job_spec"]["scheduling"].pop("strategy")
    client.create_custom_job(parent=parent(cloud), custom_job=uneven)
    client.create_custom_job(parent=parent(cloud), custom_job=job(pools=2, strategy=FLEX))


@pytest.mark.parametrize("account", ["stranger@cloudtune-standin.iam.gserviceaccount.com", "x@other.iam.gserviceaccount.com", "me"])
def test_a_service_account_must_be_one_that_the_user_may_act_as(cloud: GcpStandin, client: Any, account: str) -> None:
    body = job()
    body["job_spec"]["service_account"] = account
    assert refusal(cloud, client, body) == f"You do not have permission to act as service_account: {account}. (or it may not exist)."
    body["job_spec"]["service_account"] = cloud.scene.service_account
    client.create_custom_job(parent=parent(cloud), custom_job=body)


def test_rest_refuses_fields_that_do_not_exist(cloud: GcpStandin) -> None:
    import requests

    url = f"{cloud.url}/v1/{parent(cloud)}/customJobs"
    answer = requests.post(url, json={"displayName": "x", "jobspec": {}}, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert 'no field named "jobspec"' in answer.json()["error"]["message"]
    assert rest_client(cloud) is not None


@pytest.mark.parametrize("text", ["labels.a=", "state", "colour=red", '(display_name="x"', "display_name = = x"])
def test_a_filter_that_is_none_is_refused(cloud: GcpStandin, client: Any, text: str) -> None:
    from google.api_core.exceptions import InvalidArgument

    with pytest.raises(InvalidArgument, match="Invalid list filter"):
        list(client.list_custom_jobs(request={"parent": parent(cloud), "filter": text}))
