"""A moto server for the tests that speak to Amazon's small services through the real boto3."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from cloudtune.standins.gcp.cloud import GcpStandin


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The address of one server for all tests: ending one takes half a second."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_server(moto_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> str:
    """The server's address, with nothing in it; the environment has a login for it and nothing of the user's."""
    address = moto_server
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).read()  # noqa: S310 - our own server
    return address


@pytest.fixture
def cloud(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcpStandin]:
    """The stand-in of Google Cloud with its storage, where Google's own library looks for it; jobs in it only pass time."""
    with GcpStandin.start(tmp_path / "cloud", mode="timed") as cloud:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.url)
        yield cloud
