"""A place in S3 keeps the laws of a Store: the real boto3 against a moto server of this process."""

from __future__ import annotations

import pytest

from cloudtune.errors import AuthError, StoreError
from cloudtune.stores.registry import open_store
from cloudtune.stores.s3 import S3Store
from cloudtune.wire import s3
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket
from cloudtune.wire.upload import WHOLE_BYTES, Upload, describe, upload_all
from tests.contract.store import StoreLaws, StoreWorld, content


class S3World(StoreWorld):
    def __init__(self, server):
        self.server = server
        self.bucket = Bucket(Login(region="us-east-1"), "the-bucket")
        self.client = self.bucket.client
        self.client.create_bucket(Bucket="the-bucket")
        self._store = S3Store(self.bucket, "some/folder")

    @property
    def store(self):
        return self._store

    def break_down(self):
        self.client.delete_object(Bucket="the-bucket", Key="some/folder/x")
        self.client.delete_bucket(Bucket="the-bucket")


@pytest.fixture
def world(aws_server):
    world = S3World(aws_server)
    yield world
    world.bucket.close()


class TestS3Store(StoreLaws):
    pass


def test_a_store_is_found_by_its_address(world):
    world.store.put("x", [b"1"])
    assert content(open_store("s3://the-bucket/some/folder/"), "x") == b"1"
    assert content(open_store("s3://the-bucket/some"), "folder/x") == b"1"
    with pytest.raises(StoreError, match="no place in S3"):
        open_store("s3://UPPER/x")


def test_keys_that_are_no_paths_are_listed_as_what_they_are_and_never_read(world):
    for key in ("some/folder/plain", "some/folder/a//b", "some/folder/../up", "some/folder/made/", "some/folderol"):
        world.client.put_object(Bucket="the-bucket", Key=key, Body=b"" if key.endswith("/") else b"x")
    assert {entry.path: entry.kind for entry in world.store.list()} == {
        "../up": "other",
        "a//b": "other",
        "made": "folder",
        "plain": "file",
    }
    for path in ("../up", "a//b"):
        with pytest.raises(StoreError) as caught:
            content(world.store, path)
        assert caught.value.code == "store-bad-path"


def test_a_large_object_comes_in_order_with_few_ranges_ahead(world):
    body = b"".join(i.to_bytes(4, "big") for i in range((5 * s3.RANGE_BYTES + 12345) // 4))
    world.store.put("big", [body])
    assert content(world.store, "big") == body
    middle = 2 * s3.RANGE_BYTES + 77
    assert content(world.store, "big", middle) == body[middle:]
    # Many fetches begun and left: every slot of the read-ahead comes back, and none waits for another.
    begun = [world.store.fetch("big") for _ in range(6)]
    for fetch in begun:
        next(fetch)
        next(fetch)
    assert b"".join(begun[0])[-100:] == body[-100:]
    for fetch in begun[1:]:
        fetch.close()
    assert all(world.bucket._slots.acquire(blocking=False) for _ in range(s3.AHEAD))


def test_what_is_staged_is_encrypted_with_the_users_own_key(world, tmp_path):
    """In one request and in parts; without a key the bucket's own setting holds."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * (WHOLE_BYTES + 1))
    for key_id in ("arn:aws:kms:us-east-1:123456789012:key/mine", None):
        uploads = [Upload(f"{key_id}/{number}", source, *describe(source)) for number, source in enumerate((b"small", large))]
        upload_all(world.bucket, uploads, f"{key_id}/", lambda _: None, key_id=key_id)
        heads = [world.client.head_object(Bucket="the-bucket", Key=one.key) for one in uploads]
        assert [head.get("SSEKMSKeyId") for head in heads] == [key_id, key_id]


def test_an_object_that_is_replaced_while_it_is_fetched_is_refused(world):
    world.store.put("big", [b"a" * (3 * s3.RANGE_BYTES)])
    fetch = world.store.fetch("big")
    next(fetch)
    world.store.put("big", [b"b" * (3 * s3.RANGE_BYTES)])
    with pytest.raises(StoreError) as caught:
        b"".join(fetch)
    assert caught.value.code == "store-changed"
    # what failed has given its place in the read-ahead back
    assert all(world.bucket._slots.acquire(blocking=False) for _ in range(s3.AHEAD))


def test_without_a_login_it_says_how_to_get_one(world, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AuthError, match="credentials") as caught:
        content(S3Store(Bucket(Login(region="us-east-1"), "the-bucket")), "x")
    assert "log in" in caught.value.hint
