"""Uploads that are broken off and gone on with, on the benchmark's small object server, which counts what it is sent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.transfer.server import serve
from cloudtune.errors import StagingError
from cloudtune.stores.destination import Wanted, opened_destination
from cloudtune.stores.s3 import S3Store
from cloudtune.wire import upload
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket
from cloudtune.wire.upload import PART_BYTES, Upload, part_bytes, upload_all
from tests.e2e.command import ROOT, surroundings

UP = """
import sys
from pathlib import Path
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket
from cloudtune.wire.upload import Upload, upload_all
path = Path(sys.argv[1])
upload_all(Bucket(Login(), "bench"), [Upload("big/" + sys.argv[2], path, path.stat().st_size, sys.argv[2])], "big/", print)
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = serve(tmp_path / "objects")
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.server_port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield running.RequestHandlerClass.objects
    running.shutdown()
    running.server_close()
    thread.join(10)


def make(path, mib):
    content = os.urandom(mib << 20)
    path.write_bytes(content)
    return content, hashlib.sha256(content).hexdigest()


def test_an_upload_killed_ten_times_is_gone_on_with_and_equal_to_the_byte(server, tmp_path):
    """kill -9 as soon as a further part has arrived; the next process takes over what is there, also the last one."""
    content, digest = make(tmp_path / "file", 88)
    parts = 88 // 8

    def arrived():
        return sum(len(upload[2]) for upload in list(server.uploads.values()))

    kills = 0
    for goal in range(1, parts):
        with subprocess.Popen([sys.executable, "-c", UP, str(tmp_path / "file"), digest], cwd=ROOT, env=surroundings()) as process:
            deadline = time.monotonic() + 60
            while arrived() < goal and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if f"bench/big/{digest}" in server.keys:
            break
    assert kills >= 1
    assert len(server.uploads) <= 1, "one upload, taken over each time"
    bucket = Bucket(Login(), "bench")
    one = Upload(f"big/{digest}", tmp_path / "file", len(content), digest)
    upload_all(bucket, [one], "big/", lambda _: None)
    assert server.uploads == {}
    assert server.keys[f"bench/big/{digest}"][0].read_bytes() == content
    assert upload_all(bucket, [one], "big/", lambda _: None) == 0, "what is there is not sent again"
    bucket.close()


def test_parts_that_arrived_are_not_sent_again_and_a_wrong_one_is(server, tmp_path):
    content, digest = make(tmp_path / "file", 32)
    bucket = Bucket(Login(), "bench")
    one = Upload(f"big/{digest}", tmp_path / "file", len(content), digest)
    made = bucket.client.create_multipart_upload(Bucket="bench", Key=one.key, Metadata={"sha256": digest})["UploadId"]
    for number, body in ((1, content[:PART_BYTES]), (2, b"x" * PART_BYTES), (3, content[2 * PART_BYTES : 3 * PART_BYTES])):
        bucket.client.upload_part(Bucket="bench", Key=one.key, UploadId=made, PartNumber=number, Body=body)
    first, wrong, third = (server.uploads[made][2][number][0] for number in (1, 2, 3))
    kept = server.uploads[made][2]
    upload_all(bucket, [one], "big/", lambda _: None)
    assert (kept[1][0], kept[3][0]) == (first, third)
    assert kept[2][0] != wrong
    assert server.keys[f"bench/{one.key}"][0].read_bytes() == content


def test_a_download_killed_again_and_again_is_gone_on_with_and_equal_to_the_byte(server, tmp_path):
    content, digest = make(tmp_path / "file", 48)
    bucket = Bucket(Login(), "bench")
    upload_all(bucket, [Upload("down/file", tmp_path / "file", len(content), digest)], "down/", lambda _: None)
    down = """
import sys
from pathlib import Path
from cloudtune.stores.destination import Wanted, opened_destination
from cloudtune.stores.s3 import S3Store
store = S3Store.at("s3://bench/down")
with opened_destination(Path(sys.argv[1])) as destination:
    destination.receive(Wanted("file", int(sys.argv[2]), sys.argv[3]), lambda start: store.fetch("file", start))
"""
    part = tmp_path / "home" / ".incoming" / digest
    kills, last = 0, 0
    for _ in range(5):
        command = [sys.executable, "-c", down, str(tmp_path / "home"), str(len(content)), digest]
        with subprocess.Popen(command, cwd=ROOT, env=surroundings()) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if part.exists() and part.stat().st_size > last:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.0005)
        size = part.stat().st_size if part.exists() else len(content)
        assert size >= last, "a part never becomes shorter"
        last = size
        if not part.exists():
            break
    assert kills >= 1
    with opened_destination(tmp_path / "home") as destination:
        wanted = Wanted("file", len(content), digest)
        if not destination.has(wanted):
            destination.receive(wanted, lambda start: S3Store(bucket, "down").fetch("file", start))
    assert (tmp_path / "home" / "file").read_bytes() == content
    bucket.close()


def test_many_files_come_up_once_and_one_that_changed_again(server, tmp_path):
    files = {f"f{n:03d}": os.urandom(1000) for n in range(60)}
    bucket = Bucket(Login(), "bench")

    def uploads():
        return [Upload(f"many/{name}", content, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()]

    assert upload_all(bucket, uploads(), "many/", lambda _: None) == 60_000
    assert upload_all(bucket, uploads(), "many/", lambda _: None) == 0
    files["f030"] = os.urandom(1000)
    assert upload_all(bucket, uploads(), "many/", lambda _: None) == 1000


def test_an_old_object_is_sent_again_before_a_rule_removes_it(server, tmp_path):
    bucket = Bucket(Login(), "bench")
    one = Upload("old/x", b"content", 7, hashlib.sha256(b"content").hexdigest())
    upload_all(bucket, [one], "old/", lambda _: None)
    file = server.keys["bench/old/x"][0]
    os.utime(file, (time.time() - upload.STALE.total_seconds() - 10,) * 2)
    assert upload_all(bucket, [one], "old/", lambda _: None) == 7


def test_a_file_that_shrinks_while_it_is_sent_is_refused(server, tmp_path):
    (tmp_path / "file").write_bytes(b"short")
    bucket = Bucket(Login(), "bench")
    with pytest.raises(StagingError, match="shorter"):
        upload_all(bucket, [Upload("x/y", tmp_path / "file", 1000, "0" * 64)], "x/", lambda _: None)
    with pytest.raises(StagingError, match="cannot be read"):
        upload_all(bucket, [Upload("x/y", tmp_path / "gone", 1000, "0" * 64)], "x/", lambda _: None)


def test_parts_are_large_enough_for_the_largest_file():
    assert part_bytes(1) == PART_BYTES
    for size in (1 << 30, 80 << 30, 5 << 40):
        assert -(-size // part_bytes(size)) <= 10_000
        assert part_bytes(size) % (1 << 20) == 0
