"""Cloud Storage keeps the laws of a Store, through the real client; and what is special to it: generations, ranges, begun uploads."""

from __future__ import annotations

import os

import pytest

from cloudtune.errors import AuthError, StoreError, UnavailableError
from cloudtune.stores.gcs import GcsStore
from cloudtune.stores.registry import open_store
from cloudtune.wire.gcs import Bucket, split
from cloudtune.wire.gcs_upload import CHUNK_BYTES, Uploads, fingerprint
from cloudtune.wire.google import patiently
from tests.contract.store import StoreLaws, StoreWorld, content


class GcsWorld(StoreWorld):
    def __init__(self, cloud):
        self.cloud = cloud
        self.bucket = Bucket(cloud.scene.bucket, sleep=lambda _: None)
        self._store = GcsStore(self.bucket, "jobs/x/model")

    @property
    def store(self):
        return self._store

    def break_down(self):
        self.cloud.faults.add("*", "error503", None)


@pytest.fixture
def world(cloud):
    return GcsWorld(cloud)


class TestGcsStore(StoreLaws):
    pass


def test_a_store_is_found_by_its_address(world):
    world.store.put("x", [b"1"])
    assert content(open_store(f"gs://{world.bucket.name}/jobs/x/model"), "x") == b"1"
    assert split("gs://b-1/x/y") == ("b-1", "x/y")
    with pytest.raises(StoreError):
        split("gs://UPPER/x")


def test_names_that_are_no_paths_are_listed_and_never_read(world):
    for name in ("jobs/x/model/../../secret", "jobs/x/model//y", "jobs/x/model/folder/", "jobs/x/model/good"):
        world.bucket.write(name, b"" if name.endswith("/") else b"s")
    kinds = {entry.path: entry.kind for entry in world.store.list()}
    assert kinds == {"../../secret": "other", "/y": "other", "folder": "folder", "good": "file"}
    with pytest.raises(StoreError):
        content(world.store, "../../secret")


def test_generations_decide_who_writes(world):
    first = world.bucket.write("lock", b"mine", generation=0)
    with pytest.raises(StoreError) as caught:
        world.bucket.write("lock", b"yours", generation=0)
    assert caught.value.code == "store-precondition"
    assert world.bucket.read("lock") == (b"mine", first)
    world.bucket.write("lock", b"mine again", generation=first)
    assert world.bucket.tail("lock", 5) == b"again"
    assert world.bucket.tail("absent", 5) == b""
    world.bucket.delete("lock")
    world.bucket.delete("lock")
    assert world.bucket.head("lock") is None


def test_a_large_file_comes_in_ranges_of_one_generation(cloud):
    bucket = Bucket(cloud.scene.bucket, sleep=lambda _: None, range_bytes=1000)
    body = os.urandom(20_017)
    bucket.write("large", body)
    pieces = list(bucket.fetch("large", 5))
    assert b"".join(pieces) == body[5:]
    assert len(pieces) == 21
    reading = bucket.fetch("large")
    next(reading)
    bucket.write("large", os.urandom(len(body)))
    with pytest.raises(StoreError):  # what is read after the change is not of the first generation
        list(reading)


def test_listing_goes_through_all_pages(world):
    world.cloud.scene.storage_page = 3
    for number in range(8):
        world.bucket.write(f"jobs/x/model/{number}", b"x")
    assert [entry.path for entry in world.store.list()] == [str(number) for number in range(8)]


def test_trouble_on_the_way_is_waited_out(world):
    world.store.put("x", [b"0123456789"])
    world.cloud.faults.add("storage.objects.get", "error503", 2)
    world.cloud.faults.add("storage.objects.get", "throttle", 1)
    assert content(world.store, "x") == b"0123456789"


@pytest.mark.parametrize(("kind", "error"), [("expired", AuthError), ("access_denied", AuthError), ("dropped", UnavailableError)])
def test_errors_are_told_apart(world, kind, error):
    world.cloud.faults.add("*", kind, None, detail="storage.objects.get")
    with pytest.raises(error) as caught:
        world.bucket.head("x")
    assert caught.value.hint
    assert caught.value.__cause__ is not None


def test_a_bucket_that_is_not_there_says_so(cloud):
    with pytest.raises(StoreError) as caught:
        Bucket("no-such-bucket-of-ours").write("x", b"x")
    assert caught.value.code == "store-no-bucket"


class TestUploads:
    @pytest.fixture
    def uploads(self, world, tmp_path):
        return Uploads(world.bucket, tmp_path / "notes", lambda _: None)

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "file.bin"
        path.write_bytes(os.urandom(3 * CHUNK_BYTES + 11))
        return path

    def test_equal_content_is_sent_once(self, uploads, file, cloud):
        print_ = fingerprint(file)
        assert uploads.send(file, "files/a", print_) is True
        sent = cloud.faults.calls["storage.objects.insert"]
        assert uploads.send(file, "files/a", print_) is False
        assert cloud.faults.calls["storage.objects.insert"] == sent
        assert b"".join(uploads.bucket.fetch("files/a")) == file.read_bytes()
        assert uploads.bucket.head("files/a").metadata == {"sha256": print_.sha256}

    def test_an_upload_goes_on_where_it_broke_off(self, uploads, file, cloud):
        print_, heard = fingerprint(file), []
        cloud.faults.add("storage.objects.insert", "error503", None, after=2)
        with pytest.raises(UnavailableError):
            uploads.send(file, "files/a", print_)
        cloud.faults.clear()
        assert uploads.send(file, "files/a", print_, heard.append) is True
        assert heard[0] > CHUNK_BYTES  # the first chunk was not sent again
        assert b"".join(uploads.bucket.fetch("files/a")) == file.read_bytes()
        assert list(uploads.notes.iterdir()) == []

    def test_a_dropped_answer_is_asked_about(self, uploads, file, cloud):
        cloud.faults.add("storage.objects.insert", "lost_reply", 1, after=2)
        assert uploads.send(file, "files/a", fingerprint(file)) is True
        assert b"".join(uploads.bucket.fetch("files/a")) == file.read_bytes()

    def test_a_file_that_changed_is_refused(self, uploads, file):
        print_ = fingerprint(file)
        with file.open("r+b") as stream:
            stream.write(b"changed")
        with pytest.raises(StoreError) as caught:
            uploads.send(file, "files/a", print_)
        assert caught.value.code == "store-digest"
        assert uploads.bucket.head("files/a") is None

    def test_another_content_of_the_same_size_is_no_copy(self, uploads, file):
        uploads.bucket.write("files/a", os.urandom(file.stat().st_size))
        assert uploads.send(file, "files/a", fingerprint(file)) is True
        assert b"".join(uploads.bucket.fetch("files/a")) == file.read_bytes()

    def test_a_begun_upload_of_another_content_is_not_gone_on_with(self, uploads, file, cloud):
        cloud.faults.add("storage.objects.insert", "error503", None, after=2)
        with pytest.raises(UnavailableError):
            uploads.send(file, "files/a", fingerprint(file))
        cloud.faults.clear()
        file.write_bytes(os.urandom(file.stat().st_size))
        assert uploads.send(file, "files/a", fingerprint(file)) is True
        assert b"".join(uploads.bucket.fetch("files/a")) == file.read_bytes()

    def test_empty_files_too(self, uploads, tmp_path):
        path = tmp_path / "empty"
        path.touch()
        assert uploads.send(path, "files/empty", fingerprint(path)) is True
        assert uploads.bucket.head("files/empty").bytes == 0


def test_patience_ends():
    waited = []

    def never():
        raise UnavailableError("no")

    with pytest.raises(UnavailableError):
        patiently(never, waited.append)
    assert len(waited) == 3
