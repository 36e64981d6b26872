"""Each planned fault as Google's own client meets it, over both transports; what was carried out and what was not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtune.standins.faults import Kind
from cloudtune.standins.gcp.cloud import GcpStandin
from tests.standins.gcp_jobs import grpc_client, job, parent, rest_client, storage_client


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[GcpStandin]:
    with GcpStandin.start(tmp_path / "gcp", mode="timed", speed=0) as running:
        yield running


@pytest.fixture(params=[rest_client, grpc_client], ids=["rest", "grpc"])
def client(request: pytest.FixtureRequest, cloud: GcpStandin) -> Any:
    make: Callable[[GcpStandin], Any] = request.param
    return make(cloud)


def kind_of(client: Any) -> str:
    return str(client.transport.kind)


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("error503", 503, "currently unavailable"),
        ("error500", 500, "Internal error"),
        ("throttle", 429, "Quota exceeded for quota metric 'Resource management requests'"),
        ("access_denied", 403, "Permission 'aiplatform.customJobs.get' denied"),
    ],
)
def test_a_fault_happens_once_and_the_library_does_not_retry_it(cloud: GcpStandin, client: Any, kind: Kind, code: int, text: str) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.faults.add("GetCustomJob", kind, detail="aiplatform.customJobs.get")
    error = raised(lambda: client.get_custom_job(name=name))
    assert error.code == code  # type: ignore[attr-defined]
    assert text in str(error)
    assert client.get_custom_job(name=name).name == name
    assert cloud.faults.calls["GetCustomJob"] == 2


@pytest.mark.parametrize("kind", ["lost_reply", "dropped"])
def test_a_create_whose_answer_is_lost_was_carried_out(cloud: GcpStandin, client: Any, kind: Kind) -> None:
    cloud.faults.add("CreateCustomJob", kind)
    error = raised(lambda: client.create_custom_job(parent=parent(cloud), custom_job=job(), timeout=10))
    assert type(error).__name__ in ("ServiceUnavailable", "ConnectionError")
    assert len(cloud.jobs("run")) == (1 if kind == "lost_reply" else 0)


def test_a_second_create_after_a_lost_answer_is_a_second_job(cloud: GcpStandin, client: Any) -> None:
    """The service knows no request ids: this is why a create is never repeated blindly."""
    cloud.faults.add("CreateCustomJob", "lost_reply")
    raised(lambda: client.create_custom_job(parent=parent(cloud), custom_job=job(), timeout=10))
    client.create_custom_job(parent=parent(cloud), custom_job=job())
    assert len(cloud.jobs("run")) == 2


def test_silence_lasts_until_the_client_s_own_deadline(cloud: GcpStandin, client: Any) -> None:
    cloud.faults.add("ListCustomJobs", "silent")
    began = time.monotonic()
    error = raised(lambda: client.list_custom_jobs(parent=parent(cloud), timeout=1.0))
    assert 0.9 < time.monotonic() - began < 8
    assert type(error).__name__ in ("DeadlineExceeded", "ReadTimeout")


def test_a_dead_login_looks_like_an_outage_over_grpc(cloud: GcpStandin, client: Any) -> None:
    cloud.faults.add("GetCustomJob", "expired")
    error = raised(lambda: client.get_custom_job(name=f"{parent(cloud)}/customJobs/1"))
    if kind_of(client) == "grpc":
        assert type(error).__name__ == "ServiceUnavailable"
        assert "Getting metadata from plugin failed" in str(error)
    else:
        # After a 401 the library asks the login for a fresh token; the anonymous one of the tests has none.
        assert type(error).__module__ == "google.auth.exceptions"


def test_an_answer_that_nobody_can_read(cloud: GcpStandin, client: Any) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.faults.add("GetCustomJob", "malformed")
    assert type(raised(lambda: client.get_custom_job(name=name))).__name__ in ("ParseError", "InternalServerError")


def test_storage_has_the_same_faults(cloud: GcpStandin) -> None:
    bucket = storage_client(cloud).bucket(cloud.scene.bucket)
    cloud.faults.add("storage.objects.insert", "error503")
    assert raised(lambda: bucket.blob("a").upload_from_string(b"x", retry=None)).code == 503  # type: ignore[attr-defined]
    assert not bucket.blob("a").exists()
    cloud.faults.add("storage.objects.insert", "lost_reply")
    raised(lambda: bucket.blob("a").upload_from_string(b"x", retry=None))
    assert bucket.blob("a").exists()
    cloud.faults.add("storage.objects.insert", "error503")
    bucket.blob("b").upload_from_string(b"x")  # the library's own retry
    assert cloud.faults.calls["storage.objects.insert"] == 4


def test_rights_that_are_missing_are_named(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.denied |= {"aiplatform.customJobs.create", "storage.objects.create"}
    error = raised(lambda: client.create_custom_job(parent=parent(cloud), custom_job=job()))
    assert "Permission 'aiplatform.customJobs.create' denied on resource '//aiplatform.googleapis.com/projects/" in str(error)
    assert client.list_custom_jobs(parent=parent(cloud)) is not None
    refused = raised(lambda: storage_client(cloud).bucket(cloud.scene.bucket).blob("a").upload_from_string(b"x"))
    assert "does not have storage.objects.create access" in str(refused)


def test_another_project_is_not_ours(cloud: GcpStandin, client: Any) -> None:
    error = raised(lambda: client.create_custom_job(parent="projects/somebody/locations/us-central1", custom_job=job()))
    assert "Permission denied on resource project somebody" in str(error)
    assert error.code == 403  # type: ignore[attr-defined]
