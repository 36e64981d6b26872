"""What the tests of the GCP stand-in share: clients of the real library over both transports, and a legal custom job."""

from __future__ import annotations

import copy
from typing import Any

from cloudtune.standins.gcp.cloud import GcpStandin

IMAGE = "us-central1-docker.pkg.dev/cloudtune-standin/cloudtune/trainer@sha256:" + "0" * 64
L4 = {"machine_type": "g2-standard-8", "accelerator_type": "NVIDIA_L4", "accelerator_count": 1}


def rest_client(cloud: GcpStandin) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1 import JobServiceClient

    return JobServiceClient(credentials=AnonymousCredentials(), transport="rest", client_options={"api_endpoint": cloud.url})


def grpc_client(cloud: GcpStandin) -> Any:
    import grpc
    from google.cloud.aiplatform_v1 import JobServiceClient
    from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport

    return JobServiceClient(transport=JobServiceGrpcTransport(channel=grpc.insecure_channel(cloud.grpc_url.removeprefix("grpc://"))))


def storage_client(cloud: GcpStandin) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return storage.Client(project=cloud.scene.project, credentials=AnonymousCredentials(), client_options={"api_endpoint": cloud.url})


def parent(cloud: GcpStandin, region: str = "us-central1") -> str:
    return f"projects/{cloud.scene.project}/locations/{region}"


def job(name: str = "run", *, machine: dict[str, Any] | None = None, pools: int = 1, **scheduling: Any) -> dict[str, Any]:
    """A custom job that the service takes; ``scheduling`` may hold timeout, strategy and so on."""
    pool = {"machine_spec": machine or L4, "replica_count": 1, "container_spec": {"image_uri": IMAGE}}
    return {
        "display_name": name,
        "labels": {"cloudtune_run": name},
        "job_spec": {
            "worker_pool_specs": [copy.deepcopy(pool) for _ in range(pools)],
            "scheduling": {"timeout": {"seconds": 3600}, **scheduling},
            "base_output_directory": {"output_uri_prefix": f"gs://{GcpStandinBucket}/runs/{name}"},
        },
    }


GcpStandinBucket = "cloudtune-standin-bucket"


def program(body: dict[str, Any], *command: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The job with this command in every pool's container."""
    for pool in body["job_spec"]["worker_pool_specs"]:
        pool["container_spec"] |= {"command": list(command), "env": [{"name": name, "value": value} for name, value in (env or {}).items()]}
    return body


def until(cloud: GcpStandin, client: Any, name: str, *states: str, seconds: float = 40.0) -> Any:
    """Ask until the job is in one of the states; fails after real ``seconds``."""
    import time

    end = time.monotonic() + seconds
    while True:
        found = client.get_custom_job(name=name)
        if found.state.name.removeprefix("JOB_STATE_") in states:
            return found
        assert time.monotonic() < end, f"still {found.state.name}; log: {[entry.text for entry in cloud.logs.entries]}"
        time.sleep(0.05)
