"""What the job's own entry does on Vertex AI: inputs linked from the mounted bucket, and the lock that keeps doubles out."""

from __future__ import annotations

import json

import pytest

from cloudtune.providers.gcp.owner import Ownership
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.wire.gcs import Bucket
from cloudtune_entry.ground import Ground, Trouble, lay_out
from cloudtune_entry.mirror import make_mirror
from cloudtune_entry.owner import other_owner


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with GcpStandin.start(tmp_path / "cloud", mode="timed") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def environ(cloud, key, **more):
    return {
        "CLOUD_ML_JOB_ID": key,
        "CLOUDTUNE_OWNER": f"gs://{cloud.scene.bucket}/cloudtune/jobs/x-abc/owner",
        "STORAGE_EMULATOR_HOST": cloud.url,
        "GCE_METADATA_HOST": cloud.url.removeprefix("http://"),
        **more,
    }


def ground(tmp_path, kind="vertex"):
    return Ground(kind, tmp_path / "ml")


def test_the_first_to_start_owns_the_launch_and_a_restart_goes_on(cloud, tmp_path):
    assert other_owner(ground(tmp_path), environ(cloud, "11")) is None
    assert other_owner(ground(tmp_path), environ(cloud, "11")) is None
    assert "belongs to job 11" in other_owner(ground(tmp_path), environ(cloud, "22"))
    assert Ownership(Bucket(cloud.scene.bucket)).owner("x-abc") == "11"


def test_who_comes_second_is_told_who_was_first(cloud):
    """A launcher that took its own wish for the answer would cancel the job that trains."""
    owners = Ownership(Bucket(cloud.scene.bucket))
    assert owners.owner("x-abc") is None
    assert [owners.claim("x-abc", key) for key in ("11", "22", "")] == ["11", "11", "11"]
    assert [owners.claim("y-abc", key) for key in ("", "22")] == ["", ""]


def test_a_name_is_as_good_as_its_number_and_another_word_proves_nothing(cloud, tmp_path, capsys):
    Ownership(Bucket(cloud.scene.bucket)).claim("x-abc", "11")
    assert other_owner(ground(tmp_path), environ(cloud, "projects/1/locations/us-central1/customJobs/11")) is None
    assert "belongs to job 11" in other_owner(ground(tmp_path), environ(cloud, "projects/1/locations/us-central1/customJobs/22"))
    assert other_owner(ground(tmp_path), environ(cloud, "a-display-name")) is None
    assert "cannot be told" in capsys.readouterr().out


def test_a_launch_that_was_given_up_trains_nothing(cloud, tmp_path):
    Ownership(Bucket(cloud.scene.bucket)).claim("x-abc", "")
    assert "given up" in other_owner(ground(tmp_path), environ(cloud, "11"))


def test_only_the_first_machine_of_a_vertex_job_asks(cloud, tmp_path):
    Ownership(Bucket(cloud.scene.bucket)).claim("x-abc", "11")
    worker = json.dumps({"cluster": {"workerpool0": ["a:1"], "workerpool1": ["b:1"]}, "task": {"type": "workerpool1", "index": 0}})
    assert other_owner(ground(tmp_path), environ(cloud, "22", CLUSTER_SPEC=worker)) is None
    assert other_owner(ground(tmp_path, "sagemaker"), environ(cloud, "22")) is None
    assert other_owner(ground(tmp_path), environ(cloud, "")) is None


@pytest.mark.parametrize("kind", ["error503", "access_denied", "dropped", "malformed"])
def test_trouble_with_the_lock_ends_no_job(cloud, tmp_path, kind, capsys):
    cloud.faults.add("*", kind, None, detail="storage.objects.create")
    assert other_owner(ground(tmp_path), environ(cloud, "11")) is None
    assert "going on" in capsys.readouterr().out


def test_without_the_service_the_mounted_bucket_is_asked(cloud, tmp_path, monkeypatch):
    cloud.faults.add("*", "error503", None)
    monkeypatch.setenv("CLOUDTUNE_BUCKETS", str(tmp_path / "gcs"))
    owner = tmp_path / "gcs" / cloud.scene.bucket / "cloudtune/jobs/x-abc/owner"
    owner.parent.mkdir(parents=True)
    owner.write_text('{"job": "99"}')
    assert "belongs to job 99" in other_owner(ground(tmp_path), environ(cloud, "11"))


def test_inputs_are_linked_by_name_from_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDTUNE_BUCKETS", str(tmp_path / "gcs"))
    files = tmp_path / "gcs" / "b-1" / "cloudtune" / "files"
    files.mkdir(parents=True)
    (files / "abc").write_text("{}")
    inputs = {"job/job.json": "gs://b-1/cloudtune/files/abc", "gs://b-1/rows.jsonl": "gs://b-1/cloudtune/files/abc"}
    place = ground(tmp_path)
    for _ in range(2):  # a restart finds its links
        lay_out(place, {"CLOUDTUNE_INPUTS": json.dumps(inputs)})
    assert place.job_file.read_text() == "{}"
    assert (place.data / "gs://b-1/rows.jsonl").is_file()
    with pytest.raises(Trouble, match="may the job's service account read the bucket"):
        lay_out(place, {"CLOUDTUNE_INPUTS": json.dumps({"train/x": "gs://b-1/absent"})})
    with pytest.raises(Trouble, match="damaged"):
        lay_out(place, {"CLOUDTUNE_INPUTS": "[1"})


def test_a_new_machine_goes_on_with_the_runs_history(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDTUNE_BUCKETS", str(tmp_path / "gcs"))
    variables = {"AIP_MODEL_DIR": "gs://b-1/jobs/x/model/", "AIP_CHECKPOINT_DIR": "gs://b-1/jobs/x/checkpoints/"}
    kept = tmp_path / "gcs" / "b-1" / "jobs" / "x"
    (kept / "output" / "data").mkdir(parents=True)
    (kept / "output" / "data" / "starts.jsonl").write_text('{"attempt": 1}\n')
    (kept / "output" / "data" / "metrics.jsonl").write_text('{"step": 1}\n')
    for name, marked in (("step-1", True), ("step-2", False)):
        (kept / "checkpoints" / name).mkdir(parents=True)
        (kept / "checkpoints" / name / "weights").write_text(name)
        if marked:
            (kept / "checkpoints" / name / "COMPLETE").touch()
    place = ground(tmp_path)
    lay_out(place, {})
    assert make_mirror(place, variables).restore() == 1
    assert (place.root / "checkpoints/step-1/weights").read_text() == "step-1"
    assert not (place.root / "checkpoints/step-2").exists()
    assert (place.output / "data/starts.jsonl").read_text() == '{"attempt": 1}\n'
    (place.output / "data/metrics.jsonl").write_text("newer")
    make_mirror(place, variables).restore()
    assert (place.output / "data/metrics.jsonl").read_text() == "newer"
