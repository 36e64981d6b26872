"""The stand-in's Cloud Storage through google-cloud-storage; where gcp-storage-emulator is right, both must behave alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtune.standins.gcp.cloud import GcpStandin
from tests.standins.gcp_jobs import storage_client

MIB = 2**20


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcpStandin]:
    with GcpStandin.start(tmp_path_factory.mktemp("storage") / "gcp", mode="timed", speed=1) as running:
        yield running


@pytest.fixture(scope="module")
def client(cloud: GcpStandin) -> Any:
    return storage_client(cloud)


@pytest.fixture
def bucket(client: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A bucket of the test's own."""
    name = f"t-{abs(hash(request.node.name)) % 10**12}"
    made = client.create_bucket(name, location="us-central1")
    yield made
    for blob in client.list_blobs(name):
        blob.delete()
    made.delete()


def test_preconditions_hold(bucket: Any) -> None:
    from google.api_core.exceptions import NotFound, PreconditionFailed

    blob = bucket.blob("lock")
    blob.upload_from_string(b"one", if_generation_match=0)
    first = blob.generation
    with pytest.raises(PreconditionFailed):
        bucket.blob("lock").upload_from_string(b"two", if_generation_match=0)
    assert bucket.blob("lock").download_as_bytes() == b"one"
    bucket.blob("lock").upload_from_string(b"three", if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        bucket.blob("lock").upload_from_string(b"four", if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        bucket.blob("lock").delete(if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        bucket.blob("lock").download_as_bytes(if_generation_match=first)
    with pytest.raises(NotFound):
        bucket.blob("lock", generation=first).download_as_bytes()
    assert bucket.blob("lock").download_as_bytes() == b"three"


def test_only_one_of_many_wins_a_lock(bucket: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from google.api_core.exceptions import PreconditionFailed

    def take(number: int) -> bool:
        try:
            bucket.blob("owner").upload_from_string(str(number).encode(), if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(24))) == 1


def test_a_wrong_checksum_is_refused(bucket: Any) -> None:
    from google.api_core.exceptions import BadRequest

    blob = bucket.blob("data")
    blob.crc32c = "AAAAAA=="
    with pytest.raises(BadRequest, match="doesn't match calculated CRC32C"):
        blob.upload_from_string(b"hello", checksum=None)
    assert not bucket.blob("data").exists()
    good = bucket.blob("data")
    good.upload_from_string(b"hello", checksum="crc32c")
    assert (good.crc32c, good.md5_hash) == ("mnG7TA==", "XUFAKrxLKna5cZ2REBfFkg==")


def test_a_damaged_resumable_upload_is_refused(bucket: Any, cloud: GcpStandin) -> None:
    import requests

    base = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable"
    place = requests.post(base, json={"name": "big"}, timeout=10).headers["Location"]
    answer = requests.put(place, data=b"x" * 100, headers={"Content-Range": "bytes 0-99/100", "X-Goog-Hash": "crc32c=AAAAAA=="}, timeout=10)
    assert answer.status_code == 400
    assert not bucket.blob("big").exists()


@pytest.mark.parametrize("name", ["ab", "Upper", "goog-thing", "a..b", "192.168.5.4", "-start", "x" * 64])
def test_bucket_names_have_rules(client: Any, cloud: GcpStandin, name: str) -> None:
    import requests

    answer = requests.post(f"{cloud.url}/storage/v1/b", params={"project": "p"}, json={"name": name}, timeout=10)
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]
    assert client is not None


def test_a_bucket_is_made_once_in_its_region(client: Any, bucket: Any) -> None:
    from google.api_core.exceptions import Conflict, NotFound

    with pytest.raises(Conflict):
        client.create_bucket(bucket.name)
    found = client.get_bucket(bucket.name)
    assert (found.location, found.location_type) == ("US-CENTRAL1", "region")
    with pytest.raises(NotFound):
        client.get_bucket("not-there-at-all")
    found.iam_configuration.uniform_bucket_level_access_enabled = True
    found.add_lifecycle_delete_rule(age=7, matches_prefix=["cloudtune/"])
    found.patch()
    again = client.get_bucket(bucket.name)
    assert again.iam_configuration.uniform_bucket_level_access_enabled
    assert [rule["action"]["type"] for rule in again.lifecycle_rules] == ["Delete"]
    assert bucket.test_iam_permissions(["storage.objects.get", "storage.buckets.delete"]) == ["storage.objects.get"]


def test_an_interrupted_upload_goes_on(bucket: Any, cloud: GcpStandin) -> None:
    import requests

    data = os.urandom(MIB + 100)
    base = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=big"
    place = requests.post(base, json={}, timeout=10).headers["Location"]
    first = requests.put(place, data=data[: MIB // 2], headers={"Content-Range": f"bytes 0-{MIB // 2 - 1}/{len(data)}"}, timeout=10)
    assert (first.status_code, first.headers["Range"]) == (308, f"bytes=0-{MIB // 2 - 1}")
    asked = requests.put(place, headers={"Content-Range": f"bytes */{len(data)}"}, timeout=10)
    assert (asked.status_code, asked.headers["Range"]) == (308, f"bytes=0-{MIB // 2 - 1}")
    rest = {"Content-Range": f"bytes {MIB // 2}-{len(data) - 1}/{len(data)}"}
    assert requests.put(place, data=data[MIB // 2 :], headers=rest, timeout=10).status_code == 200
    assert bucket.blob("big").download_as_bytes() == data


def test_chunks_and_ranges(bucket: Any) -> None:
    data = os.urandom(3 * MIB + 17)
    blob = bucket.blob("big", chunk_size=MIB)
    blob.upload_from_string(data)
    assert bucket.blob("big").download_as_bytes() == data
    assert bucket.blob("big").download_as_bytes(start=MIB, end=MIB + 9) == data[MIB : MIB + 10]
    assert bucket.blob("big").download_as_bytes(start=len(data) - 5) == data[-5:]
    assert bucket.blob("big", chunk_size=MIB).download_as_bytes() == data


def test_parallel_download_of_one_object(bucket: Any, tmp_path: Path) -> None:
    from google.cloud.storage import transfer_manager

    data = os.urandom(4 * MIB)
    bucket.blob("big").upload_from_string(data)
    transfer_manager.download_chunks_concurrently(
        bucket.get_blob("big"), str(tmp_path / "big"), chunk_size=MIB, worker_type=transfer_manager.THREAD
    )
    assert (tmp_path / "big").read_bytes() == data


def test_rights_that_are_missing_are_answered_with_403(bucket: Any, cloud: GcpStandin) -> None:
    from google.api_core.exceptions import Forbidden

    cloud.scene.denied.add("storage.objects.list")
    try:
        with pytest.raises(Forbidden, match=r"does not have storage.objects.list access"):
            list(bucket.list_blobs())
    finally:
        cloud.scene.denied.clear()


def session(client: Any, name: str) -> list[Any]:
    """What one client does and sees; what may differ by place or time, and pages, which the emulator has not, are left out."""
    from google.api_core.exceptions import NotFound

    seen: list[Any] = []
    bucket = client.bucket(name)
    for key, data in {"a.txt": b"A", "dir/b.txt": b"BB", "dir/sub/ü c.txt": b"CCC", "dir2/d": b"", "z/big": b"x" * (600 * 1024)}.items():
        blob = bucket.blob(key)
        blob.metadata = {"sha256": key}
        blob.upload_from_string(data, content_type="text/plain")
        seen.append((blob.name, blob.size, blob.crc32c, blob.md5_hash, blob.content_type))
    seen.append([(one.name, one.size, one.metadata) for one in client.list_blobs(name)])
    seen.append([one.name for one in client.list_blobs(name, prefix="dir/")])
    folders = client.list_blobs(name, prefix="", delimiter="/")
    seen += [[one.name for one in folders], sorted(folders.prefixes)]
    for call in (bucket.blob("none").download_as_bytes, bucket.blob("none").delete, bucket.blob("none").reload):
        with pytest.raises(NotFound):
            call()
    blob = bucket.get_blob("a.txt")
    blob.metadata = {"sha256": "changed", "more": "1"}
    blob.patch()
    seen.append(bucket.get_blob("a.txt").metadata)
    bucket.copy_blob(bucket.blob("dir/b.txt"), bucket, "copy")
    seen.append(bucket.blob("copy").download_as_bytes())
    seen.append(bucket.blob("dir/sub/ü c.txt").download_as_bytes(start=1, end=1))
    bucket.blob("copy").delete()
    seen += [bucket.blob("copy").exists(), bucket.get_blob("none"), bucket.exists()]
    return seen


def test_it_behaves_as_the_known_emulator_where_that_is_right(client: Any, bucket: Any) -> None:
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="other-bucket")
    server.start()
    try:
        host, port = server._api._httpd.socket.getsockname()
        other = storage.Client(project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": f"http://{host}:{port}"})
        assert session(client, bucket.name) == session(other, "other-bucket")
    finally:
        server.stop()


def test_many_objects_come_in_pages(bucket: Any, cloud: GcpStandin) -> None:
    for number in range(25):
        bucket.blob(f"p/{number:03}").upload_from_string(b"x")
    cloud.scene.storage_page = 7
    try:
        assert [one.name for one in bucket.list_blobs(prefix="p/")] == [f"p/{number:03}" for number in range(25)]
    finally:
        cloud.scene.storage_page = 1000
