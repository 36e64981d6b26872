"""The small services beside the jobs: logs, rights, quotas, secrets, metadata; and the stand-in as a program of its own."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.filters import parse_filter
from tests.standins.gcp_jobs import job, parent, rest_client


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[GcpStandin]:
    with GcpStandin.start(tmp_path / "gcp", mode="timed", speed=0) as running:
        yield running


def ask(cloud: GcpStandin, path: str, body: dict[str, Any] | None = None, status: int = 200, **headers: str) -> Any:
    made = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{cloud.url}{path}"
    answer = requests.get(url, headers=made, timeout=10) if body is None else requests.post(url, json=body, headers=made, timeout=10)
    assert answer.status_code == status, answer.text
    return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text


def read(cloud: GcpStandin, **more: Any) -> tuple[list[str], str]:
    """Texts and next page token of one ``entries:list``."""
    body = {"resourceNames": [f"projects/{cloud.scene.project}"], "orderBy": "timestamp asc", **more}
    answer = ask(cloud, "/v2/entries:list", body)
    return [one["jsonPayload"]["message"] for one in answer.get("entries", [])], answer.get("nextPageToken", "")


def test_log_entries_are_filtered_ordered_and_paged(cloud: GcpStandin) -> None:
    for number in range(7):
        cloud.logs.add("17", "workerpool0-0", f"line {number}")
        cloud.clock.advance(1)
    cloud.logs.add("17", "workerpool1-0", "of a worker")
    cloud.logs.add("18", "workerpool0-0", "of another job")
    wanted = 'resource.type="ml_job" AND resource.labels.job_id="17"'
    assert len(read(cloud, filter=wanted, pageSize=100)[0]) == 8
    first, token = read(cloud, filter=f'{wanted} AND resource.labels.task_name="workerpool0-0"', pageSize=3)
    assert first == ["line 0", "line 1", "line 2"]
    second, _ = read(cloud, filter=f'{wanted} AND resource.labels.task_name="workerpool0-0"', pageSize=3, pageToken=token)
    assert second == ["line 3", "line 4", "line 5"]
    assert read(cloud, filter=wanted, orderBy="timestamp desc", pageSize=1)[0] == ["of a worker"]
    since = cloud.logs.entries[5].at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert read(cloud, filter=f'{wanted} AND timestamp>="{since}"')[0] == ["line 5", "line 6", "of a worker"]
    assert read(cloud, filter='textPayload:"line"')[0] == []


def test_some_lines_show_late_but_in_their_place(cloud: GcpStandin) -> None:
    cloud.scene.log_late = 40
    for number in range(6):
        cloud.logs.add("17", "workerpool0-0", f"line {number}")
        cloud.clock.advance(1)
    assert read(cloud)[0] == ["line 0", "line 1", "line 2", "line 3", "line 5"]
    cloud.clock.advance(40)
    assert read(cloud)[0] == [f"line {number}" for number in range(6)]


def test_lines_of_one_instant_keep_their_order_over_pages(cloud: GcpStandin) -> None:
    for number in range(10):
        cloud.logs.add("17", "workerpool0-0", f"{number}")
    texts, token = read(cloud, pageSize=4)
    while token:
        more, token = read(cloud, pageSize=4, pageToken=token)
        texts += more
    assert texts == [str(number) for number in range(10)]
    assert len({entry.insert_id for entry in cloud.logs.entries}) == 10


def test_logs_need_their_own_right(cloud: GcpStandin) -> None:
    cloud.scene.denied.add("logging.logEntries.list")
    refused = ask(cloud, "/v2/entries:list", {"resourceNames": [f"projects/{cloud.scene.project}"]}, 403)
    assert refused["error"]["status"] == "PERMISSION_DENIED"


def test_rights_are_tested_on_project_and_account(cloud: GcpStandin) -> None:
    scene = cloud.scene
    scene.denied.add("aiplatform.customJobs.cancel")
    wanted = {"permissions": ["aiplatform.customJobs.create", "aiplatform.customJobs.cancel", "no.such.right"]}
    for version in ("v1", "v3"):
        found = ask(cloud, f"/{version}/projects/{scene.project}:testIamPermissions", wanted)
        assert found == {"permissions": ["aiplatform.customJobs.create"]}
    account = f"/v1/projects/-/serviceAccounts/{scene.service_account}".replace("/-/", f"/{scene.project}/")
    act = {"permissions": ["iam.serviceAccounts.actAs"]}
    assert ask(cloud, f"{account}:testIamPermissions", act) == act
    scene.strangers.add(scene.service_account)
    assert ask(cloud, f"{account}:testIamPermissions", act) == {}
    nobody = f"/v1/projects/{scene.project}/serviceAccounts/nobody@x.iam.gserviceaccount.com"
    assert "Unknown service account" in ask(cloud, nobody, status=404)["error"]["message"]
    ask(cloud, "/v3/projects/another:testIamPermissions", wanted, 403)


def test_quotas_are_listed_with_their_limits(cloud: GcpStandin) -> None:
    cloud.scene.quotas |= {"custom_model_training_nvidia_l4_gpus": 2, "custom_model_training_preemptible_cpus": 1}
    path = f"/v1/projects/{cloud.scene.project}/locations/global/services/aiplatform.googleapis.com/quotaInfos"
    infos: dict[str, Any] = {}
    token = ""
    while True:
        page = ask(cloud, f"{path}?pageSize=10&pageToken={token}")
        infos |= {one["metric"]: one for one in page["quotaInfos"]}
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert len(infos) == 28
    l4 = infos["aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus"]
    assert l4["dimensionsInfos"][0]["details"]["value"] == "2"
    assert l4["dimensionsInfos"][0]["dimensions"] == {"region": "us-central1"}
    assert infos["aiplatform.googleapis.com/custom_model_training_preemptible_cpus"]["dimensionsInfos"][0]["details"]["value"] == "1"


def test_a_limit_that_is_shown_is_the_one_that_holds(cloud: GcpStandin) -> None:
    from google.api_core.exceptions import TooManyRequests

    cloud.scene.quotas["custom_model_training_nvidia_l4_gpus"] = 0
    with pytest.raises(TooManyRequests, match="custom_model_training_nvidia_l4_gpus"):
        rest_client(cloud).create_custom_job(parent=parent(cloud), custom_job=job())


def test_secrets_and_metadata(cloud: GcpStandin) -> None:
    scene = cloud.scene
    scene.secrets["hf"] = "hf_value"
    path = f"/v1/projects/{scene.project}/secrets/hf"
    assert ask(cloud, f"{path}/versions/latest:access")["payload"]["data"] == "aGZfdmFsdWU="
    assert "replication" in ask(cloud, path)
    ask(cloud, f"/v1/projects/{scene.project}/secrets/none/versions/latest:access", status=404)
    scene.denied.add("secretmanager.versions.access")
    assert "secretmanager.versions.access" in ask(cloud, f"{path}/versions/latest:access", status=403)["error"]["message"]
    token = ask(cloud, "/computeMetadata/v1/instance/service-accounts/default/token", Metadata_Flavor="Google")
    assert token["token_type"] == "Bearer"
    ask(cloud, "/computeMetadata/v1/instance/service-accounts/default/token", status=403)
    assert ask(cloud, "/computeMetadata/v1/project/project-id", Metadata_Flavor="Google") == scene.project


def test_google_s_own_login_finds_the_metadata_server(cloud: GcpStandin) -> None:
    code = (
        "import google.auth, google.auth.transport.requests as r\nc, p = google.auth.default()\nc.refresh(r.Request())\nprint(p, c.token)"
    )
    place = cloud.url.removeprefix("http://")
    here = {"PATH": "/usr/bin:/bin", "HOME": str(cloud.folder), "GCE_METADATA_HOST": place, "GCE_METADATA_IP": place}
    found = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == [cloud.scene.project, "ya29.standin"], found.stderr


def test_what_is_not_there_is_said(cloud: GcpStandin) -> None:
    assert "The stand-in has no GET /v9/nothing" in ask(cloud, "/v9/nothing", status=404)["error"]["message"]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", True),
        ("a=1", True),
        ("a=2", False),
        ("NOT a=2", True),
        ("-a=1", False),
        ("a=1 b=2", True),
        ("a=1 AND b=3 OR b=2", True),
        ("a=2 AND (b=3 OR b=2)", False),
        ("c:*", False),
        ("b:*", True),
        ('name:"supp*"', True),
        ('name:"port"', True),
        ('name="say \\"hi\\""', False),
        ("c!=1", True),
        ("b>=2 b<3", True),
    ],
)
def test_filters(text: str, passes: bool) -> None:
    values = {"a": "1", "b": "2", "name": "support-bot"}
    assert parse_filter(text)(values.get) is passes


def test_it_is_a_program_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cloudtune.standins.gcp", "--folder", str(tmp_path / "gcp"), "--mode", "timed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        environment = json.loads(program.stdout.readline())
        url = f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/{environment['CLOUDTUNE_GCP_BUCKET']}"
        assert requests.get(url, timeout=10).json()["location"] == "US-CENTRAL1"
        base = environment["CLOUDTUNE_GCP_ENDPOINT"]
        assert base.startswith("http://127.0.0.1:")
        assert requests.post(f"{base}/standin/fault", json={"operation": "ListCustomJobs", "kind": "error503"}, timeout=10).ok
        assert requests.post(f"{base}/standin/fault", json={"kind": "earthquake"}, timeout=10).status_code == 400
        listed = f"{base}/v1/projects/{environment['GOOGLE_CLOUD_PROJECT']}/locations/us-central1/customJobs"
        assert [requests.get(listed, timeout=10).status_code for _ in range(2)] == [503, 200]
        assert requests.get(f"{base}/standin/calls", timeout=10).json()["ListCustomJobs"] == 2
        assert requests.post(f"{base}/standin/preempt", json={"job": "none"}, timeout=10).status_code == 400
        assert requests.post(f"{base}/standin/advance", json={"seconds": 60}, timeout=10).ok
        assert requests.get(f"{base}/standin/jobs", timeout=10).json() == []
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0


def context(*names: str) -> bytes:
    """A gzipped tar with these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in names:
            data = name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def build(cloud: GcpStandin, data: bytes, **more: Any) -> dict[str, Any]:
    """Asks for a build of this context; the operation."""
    cloud.store.put_bytes(cloud.scene.bucket, "context.tgz", data)
    image = f"{cloud.environment['CLOUDTUNE_GCP_REPOSITORY']}/trainer:cuda-1"
    body = {
        "source": {"storageSource": {"bucket": cloud.scene.bucket, "object": "context.tgz"}},
        "steps": [{"name": "gcr.io/cloud-builders/docker", "args": ["build", "-t", image, "."]}],
        "images": [image],
        **more,
    }
    found: dict[str, Any] = ask(cloud, f"/v1/projects/{cloud.scene.project}/locations/us-central1/builds", body)
    return found


def test_a_build_ends_with_an_image_that_has_a_digest(cloud: GcpStandin) -> None:
    project = cloud.scene.project
    manifest = f"/v2/{project}/cloudtune/trainer/manifests/cuda-1"
    tag = f"/v1/projects/{project}/locations/us-central1/repositories/cloudtune/packages/trainer/tags/cuda-1"
    ask(cloud, manifest, status=404)
    ask(cloud, tag, status=404)
    operation = build(cloud, context("Dockerfile", "trainer/train.py"))
    assert operation["metadata"]["build"]["status"] == "QUEUED"
    cloud.clock.advance(30)
    assert ask(cloud, f"/v1/{operation['name']}")["metadata"]["build"]["status"] == "WORKING"
    cloud.clock.advance(70)
    done = ask(cloud, f"/v1/{operation['name']}")
    digest = done["response"]["results"]["images"][0]["digest"]
    assert done["done"]
    assert digest.startswith("sha256:")
    assert requests.head(f"{cloud.url}{manifest}", timeout=10).headers["Docker-Content-Digest"] == digest
    assert ask(cloud, tag)["version"].endswith(digest)
    image = f"/v1/projects/{project}/locations/us-central1/repositories/cloudtune/dockerImages/trainer@{digest}"
    assert ask(cloud, image)["tags"] == ["cuda-1"]


@pytest.mark.parametrize(
    ("data", "more", "status", "text"),
    [
        (context("README.md"), {}, "FAILURE", "Dockerfile"),
        (b"no archive", {}, "FAILURE", "not a gzipped tar"),
        (context("Dockerfile"), {"timeout": "60s"}, "TIMEOUT", "timeout"),
        (
            context("Dockerfile"),
            {"source": {"storageSource": {"bucket": "cloudtune-standin-bucket", "object": "none"}}},
            "FAILURE",
            "No such object",
        ),
    ],
)
def test_builds_can_fail(cloud: GcpStandin, data: bytes, more: dict[str, Any], status: str, text: str) -> None:
    operation = build(cloud, data, **more)
    cloud.clock.advance(200)
    ended = ask(cloud, f"/v1/{operation['name']}")
    assert ended["metadata"]["build"]["status"] == status
    assert text in ended["error"]["message"]


def test_an_image_is_pushed_layer_by_layer(cloud: GcpStandin) -> None:
    base = f"http://{cloud.repository.replace('/', '/v2/', 1)}/trainer"
    layer, config = b"layer" * 1000, b"{}"
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (layer, config)]
    for data, digest in zip((layer, config), digests, strict=True):
        assert requests.head(f"{base}/blobs/{digest}", timeout=10).status_code == 404
        place = requests.post(f"{base}/blobs/uploads/", timeout=10).headers["Location"]
        assert requests.patch(f"{cloud.url}{place}", data=data[:7], timeout=10).status_code == 202
        wrong = requests.post(f"{base}/blobs/uploads/", timeout=10).headers["Location"]
        assert requests.put(f"{cloud.url}{wrong}", params={"digest": digest}, data=b"else", timeout=10).status_code == 400
        assert requests.put(f"{cloud.url}{place}", params={"digest": digest}, data=data[7:], timeout=10).status_code == 201
    body = {"schemaVersion": 2, "config": {"digest": digests[1]}, "layers": [{"digest": digests[0]}]}
    missing = {**body, "layers": [{"digest": "sha256:" + "1" * 64}]}
    assert requests.put(f"{base}/manifests/one", json=missing, timeout=10).json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
    answer = requests.put(f"{base}/manifests/one", json=body, timeout=10)
    assert requests.get(f"{base}/manifests/one", timeout=10).headers["Docker-Content-Digest"] == answer.headers["Docker-Content-Digest"]
    assert requests.get(f"{base}/blobs/{digests[0]}", timeout=10).content == layer
    elsewhere = base.replace("/cloudtune/", "/nowhere/")
    assert requests.post(f"{elsewhere}/blobs/uploads/", timeout=10).json()["errors"][0]["code"] == "NAME_UNKNOWN"


def test_a_repository_is_made_once(cloud: GcpStandin) -> None:
    place = f"/v1/projects/{cloud.scene.project}/locations/us-central1/repositories"
    assert ask(cloud, f"{place}/cloudtune")["format"] == "DOCKER"
    ask(cloud, f"{place}/other", status=404)
    assert ask(cloud, f"{place}?repositoryId=other", {"format": "DOCKER"})["done"]
    assert ask(cloud, f"{place}/other")["name"].endswith("/repositories/other")
    ask(cloud, f"{place}?repositoryId=other", {"format": "DOCKER"}, 409)
