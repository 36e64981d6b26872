"""Data in S3 for a job on Google's cloud, and inputs in Cloud Storage, through both clouds' real libraries against stand-ins."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.errors import AuthError, StagingError, UnavailableError
from cloudtune.filelock import FileLock
from cloudtune.job import JobState
from cloudtune.providers.gcp.copying import Copies, look_at
from cloudtune.providers.gcp.inputs import look_at_input
from cloudtune.rendering.jobfile import BucketInput, bucket_inputs
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.verbs.launch import launch
from cloudtune.verbs.render import render
from cloudtune.verbs.track import track
from cloudtune.wire.aws import Login as AwsLogin
from cloudtune.wire.gcs import Bucket
from cloudtune.wire.gcs_upload import Uploads, fingerprint
from cloudtune.wire.google import Login
from cloudtune.wire.s3 import RANGE_BYTES
from cloudtune.wire.s3 import Bucket as S3Bucket
from tests.gcp_life import gcp_session, quick_scene, write_trainer
from tests.unit.gcp_builders import gcp_plan

URI = "s3://theirs/deep/rows.jsonl"
SETTINGS = SimpleNamespace(aws_profile=None, aws_region=None)
CONTENT = os.urandom(1 << 20) * 20


@pytest.fixture
def s3(aws_server):
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="theirs")
    client.put_object(Bucket="theirs", Key="deep/rows.jsonl", Body=CONTENT)
    return client


@pytest.fixture
def copies(cloud, tmp_path):
    bucket = Bucket(cloud.scene.bucket, sleep=lambda _: None)
    uploads = Uploads(bucket, tmp_path / "uploads", lambda _: None)
    sent = []

    def upload(path, say):
        print_ = fingerprint(path)
        sent.append(path.read_bytes())
        uploads.send(path, f"cloudtune/files/{print_.sha256}", print_)
        return bucket.where(f"cloudtune/files/{print_.sha256}"), print_

    made = Copies(bucket, tmp_path / "copies", VirtualClock(), upload)

    def bring(original=None, **changes):
        return replace(made, **changes).bring(original or look_at(URI, SETTINGS), said.append)

    return SimpleNamespace(bring=bring, sent=sent, folder=made.folder, bucket=bucket)


said: list[str] = []


@pytest.fixture(autouse=True)
def quiet():
    said.clear()


def test_a_copy_is_made_once_for_each_version(s3, copies):
    uri = copies.bring()
    assert copies.bucket.read(uri.removeprefix(copies.bucket.where("")))[0] == CONTENT
    assert list(copies.folder.iterdir()) == [], "nothing of it stays on this disk"
    assert any("20 MiB of 20 MiB" in text for text in said)
    assert copies.bring() == uri
    assert said[-1] == f"{URI} was copied before"
    s3.put_object(Bucket="theirs", Key="deep/rows.jsonl", Body=b"other")
    again = copies.bring()
    assert again != uri
    assert [len(content) for content in copies.sent] == [len(CONTENT), 5]


def test_a_copy_that_somebody_removed_is_made_again(s3, copies):
    uri = copies.bring()
    copies.bucket.delete(uri.removeprefix(copies.bucket.where("")))
    assert copies.bring() == uri
    assert len(copies.sent) == 2


class Watched(S3Bucket):
    """Notes where each fetch starts, and does something when it is over."""

    def __init__(self, then=lambda: None):
        super().__init__(AwsLogin(), "theirs")
        self.starts = []
        self.then = then

    def fetch(self, key, start=0):
        self.starts.append(start)
        yield from super().fetch(key, start)
        self.then()


def test_an_interrupted_fetch_goes_on_from_what_has_arrived(s3, copies):
    original = look_at(URI, SETTINGS)
    copies.folder.mkdir()
    part = copies.folder / f"{original.version}.part"
    part.write_bytes(CONTENT[: RANGE_BYTES + 5])
    bucket = Watched()
    copies.bring(replace(original, bucket=bucket))
    assert bucket.starts == [RANGE_BYTES + 5]
    assert copies.sent == [CONTENT]


def test_a_part_that_is_not_the_beginning_of_the_object_is_found_by_its_digest(s3, copies):
    """Where there is one to compare with, as of everything that cloudtune has put into S3."""
    s3.put_object(Bucket="theirs", Key="deep/rows.jsonl", Body=CONTENT, Metadata={"sha256": hashlib.sha256(CONTENT).hexdigest()})
    copies.folder.mkdir()
    part = copies.folder / f"{look_at(URI, SETTINGS).version}.part"
    part.write_bytes(b"X" * RANGE_BYTES)
    with pytest.raises(StagingError, match="digest"):
        copies.bring()
    assert not part.exists()
    uri = copies.bring()
    assert copies.bucket.read(uri.removeprefix(copies.bucket.where("")))[0] == CONTENT


def test_an_object_that_changes_meanwhile_is_no_copy(s3, copies):
    bucket = Watched(lambda: s3.put_object(Bucket="theirs", Key="deep/rows.jsonl", Body=CONTENT + b"more"))
    with pytest.raises(StagingError, match="changed in S3"):
        copies.bring(replace(look_at(URI, SETTINGS), bucket=bucket))
    assert copies.sent == []
    assert not list(copies.folder.glob("*.part"))


def test_a_disk_that_is_too_small_and_a_second_launcher_are_told(s3, copies):
    with pytest.raises(StagingError, match="on this disk") as caught:
        copies.bring(spare_bytes=1 << 60)
    assert "gcloud storage cp s3://theirs/deep/rows.jsonl" in caught.value.hint
    lock = FileLock.try_acquire(copies.folder / f"{look_at(URI, SETTINGS).version}.lock")
    with pytest.raises(StagingError, match="another launch"):
        copies.bring()
    lock.remove()


def test_what_cannot_be_read_is_found_before_a_launch(s3, monkeypatch):
    def looked(uri):
        return look_at_input(BucketInput("train-0/rows.jsonl", uri), "us-central1", Login(standin=True), lambda _: None, SETTINGS)

    assert looked(URI) == "20 MiB in S3, copied while launching"
    for uri in ("s3://theirs/absent.jsonl", "s3://theirs/deep/"):
        with pytest.raises(StagingError) as caught:
            looked(uri)
        assert caught.value.code == "no-data"
        assert uri in caught.value.hint
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises((AuthError, UnavailableError)) as refused:
        looked(URI)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("location", "verdict"),
    [("US-CENTRAL1", ""), ("US", ""), ("EUROPE-WEST4", "europe-west4, jobs run in us-central1"), ("EU", "eu, jobs run in us-central1")],
)
def test_a_bucket_elsewhere_is_a_note(cloud, location, verdict):
    cloud.store.make_bucket("their-shelf", location, {})
    Bucket("their-shelf", sleep=lambda _: None).write("rows.jsonl", b"{}\n")
    found = look_at_input(
        BucketInput("train-0/rows.jsonl", "gs://their-shelf/rows.jsonl"), "us-central1", Login(standin=True), lambda _: None, SETTINGS
    )
    assert (isinstance(found, str), verdict in getattr(found, "found", "")) == (not verdict, True)


def test_a_base_model_needs_config_and_weights(cloud):
    shelf = Bucket(cloud.scene.bucket, sleep=lambda _: None)

    def looked():
        item = BucketInput("model", f"gs://{cloud.scene.bucket}/m/tiny")
        return look_at_input(item, cloud.scene.region, Login(standin=True), lambda _: None, SETTINGS)

    shelf.write("m/tiny-other/config.json", b"{}")
    with pytest.raises(StagingError, match=r"no config.json and no weights"):
        looked()
    shelf.write("m/tiny/config.json", b"{}")
    with pytest.raises(StagingError, match="no weights"):
        looked()
    shelf.write("m/tiny/model-00001-of-00002.safetensors", b"w" * (3 << 20))
    assert looked().startswith("3 MiB in ")
    with pytest.raises(StagingError) as caught:
        look_at_input(BucketInput("model", "gs://no-such-bucket-1/m"), "x", Login(standin=True), lambda _: None, SETTINGS)
    assert caught.value.code == "no-bucket"


def test_data_that_changed_since_the_orders_were_written_is_not_staged(cloud, tmp_path):
    plan = gcp_plan(tmp_path / "rows")
    bundle = render(plan)
    (tmp_path / "rows/rows.jsonl").write_text('{"prompt": "other", "completion": "rows"}\n')
    with gcp_session(tmp_path, cloud) as session, pytest.raises(StagingError, match="changed while it was being staged"):
        session.place("gcp").stager.stage(bundle, plan, said.append)


def test_inputs_in_buckets_have_places_of_their_own(tmp_path):
    plan = gcp_plan(tmp_path, data="gs://b/deep/my rows.jsonl", model={"base": "gs://b/m/"})
    assert bucket_inputs(plan) == (BucketInput("train-0/my rows.jsonl", "gs://b/deep/my rows.jsonl"), BucketInput("model", "gs://b/m/"))
    assert [item.channel for item in bucket_inputs(gcp_plan(tmp_path, data="s3://b/rows.jsonl"))] == ["train-0/rows.jsonl"]


def test_a_launch_copies_its_data_and_the_job_finds_it(s3, tmp_path, monkeypatch):
    s3.put_object(Bucket="theirs", Key="deep/rows.jsonl", Body=b"{}\n" * 100)
    told = []
    with GcpStandin.start(tmp_path / "cloud", scene=quick_scene()) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        with gcp_session(tmp_path, cloud, trainer=write_trainer(tmp_path, steps=2)) as session:
            for launch_id in ("first-abc", "second-abc"):
                launch(gcp_plan(tmp_path / "data", data=URI), session=session, launch_id=launch_id, progress=told.append)
            ended = [list(track(launch_id, session=session))[-1] for launch_id in ("first-abc", "second-abc")]
        assert [view.state for view in ended] == [JobState.SUCCEEDED] * 2, ended
        assert any(entry.text == "inputs job/job.json train-0/rows.jsonl" for entry in cloud.logs.entries)
    assert f"{URI} was copied before" in told
