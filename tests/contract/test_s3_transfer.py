"""Uploads that are broken off and gone on with, on the benchmark's small object server, which counts what it is sent."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from benchmarks.transfer.server import Handler, serve
from cloudtune.errors import StagingError
from cloudtune.wire import upload
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import RANGE_BYTES, Bucket
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


DOWN = """
import sys
from pathlib import Path
from cloudtune.stores.destination import Wanted, opened_destination
from cloudtune.stores.s3 import S3Store
store = S3Store.at("s3://bench/down")
with opened_destination(Path(sys.argv[1])) as destination:
    destination.receive(Wanted("file", int(sys.argv[2]), sys.argv[3]), lambda start: store.fetch("file", start))
"""
KILLS = 10


class Gate:
    """Lets so many parts and answers of one round through and holds the rest until the next, whose programs are others."""

    def __init__(self):
        self.parts: list[int] = []
        """Numbers of the parts that were stored."""
        self.answers: list[int] = []
        """Bytes of each answer that was sent whole."""
        self._left = {"parts": math.inf, "answers": math.inf}
        self._round = 0
        self._changed = threading.Condition()

    def begin(self, *, parts=0, answers=0):
        with self._changed:
            self._left = {"parts": parts, "answers": answers}
            self._round += 1
            self._changed.notify_all()

    def open(self):
        self.begin(parts=math.inf, answers=math.inf)

    def passes(self, kind):
        """Wait for one's turn; False when the round is over, and with it whoever asked."""
        with self._changed:
            mine = self._round
            self._changed.wait_for(lambda: self._round != mine or self._left[kind] > 0)
            if self._round != mine:
                return False
            self._left[kind] -= 1
            return True


class GatedHandler(Handler):
    def do_PUT(self):  # noqa: N802 - the library names it
        number = parse_qs(urlsplit(self.path).query).get("partNumber")
        if number is None:
            super().do_PUT()
        elif self.objects.gate.passes("parts"):
            super().do_PUT()
            self.objects.gate.parts.append(int(number[0]))
        else:
            self.close_connection = True

    def _get(self):
        if not self.objects.gate.passes("answers"):
            self.close_connection = True
            return
        super()._get()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        size = self._found()[0].stat().st_size
        self.objects.gate.answers.append(min(int(last), size - 1) + 1 - int(first))


def killed_when(seen, command):
    """Run the command and kill -9 it as soon as ``seen``; it must not have ended by then."""
    with subprocess.Popen(command, cwd=ROOT, env=surroundings(), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not seen() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was to be killed, and had ended"
    assert seen()


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = serve(tmp_path / "objects", handler=GatedHandler)
    running.RequestHandlerClass.objects.gate = Gate()
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
    running.RequestHandlerClass.objects.gate.open()
    running.shutdown()
    running.server_close()
    thread.join(10)


def make(path, mib):
    content = os.urandom(mib << 20)
    path.write_bytes(content)
    return content, hashlib.sha256(content).hexdigest()


def test_an_upload_killed_ten_times_is_gone_on_with_and_equal_to_the_byte(server, tmp_path):
    """kill -9 as soon as one further part has arrived; the next process takes over what is there, also the last one."""
    content, digest = make(tmp_path / "file", KILLS * 8 + 8)
    command = [sys.executable, "-c", UP, str(tmp_path / "file"), digest]
    for arrived in range(1, KILLS + 1):
        server.gate.begin(parts=1)
        killed_when(lambda arrived=arrived: len(server.gate.parts) == arrived, command)
        assert len(server.uploads) == 1, "one upload, taken over each time"
    server.gate.open()
    assert subprocess.run(command, cwd=ROOT, env=surroundings(), timeout=60, check=False).returncode == 0
    assert server.uploads == {}
    assert server.keys[f"bench/big/{digest}"][0].read_bytes() == content
    assert sorted(server.gate.parts) == list(range(1, KILLS + 2)), "no part that had arrived was sent again"
    bucket = Bucket(Login(), "bench")
    assert upload_all(bucket, [Upload(f"big/{digest}", tmp_path / "file", len(content), digest)], "big/", lambda _: None) == 0
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


def test_a_download_killed_ten_times_is_gone_on_with_and_equal_to_the_byte(server, tmp_path):
    """kill -9 as soon as one further range is being written; the next process asks for what is not on the disk yet."""
    content, digest = make(tmp_path / "file", KILLS * 8 + 8)
    bucket = Bucket(Login(), "bench")
    upload_all(bucket, [Upload("down/file", tmp_path / "file", len(content), digest)], "down/", lambda _: None)
    bucket.close()
    command = [sys.executable, "-c", DOWN, str(tmp_path / "home"), str(len(content)), digest]
    part = tmp_path / "home" / ".incoming" / digest

    def size():
        return part.stat().st_size if part.exists() else 0

    again = 0
    for _ in range(KILLS):
        had = size()
        server.gate.begin(answers=1)
        killed_when(lambda had=had: size() > had, command)
        again += had + RANGE_BYTES - size()
    server.gate.open()
    assert subprocess.run(command, cwd=ROOT, env=surroundings(), timeout=60, check=False).returncode == 0
    assert (tmp_path / "home" / "file").read_bytes() == content
    assert not (tmp_path / "home" / ".incoming").exists()
    assert sum(server.gate.answers) == len(content) + again, "only what a kill kept from the disk was asked for again"
    assert again < KILLS * RANGE_BYTES


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
