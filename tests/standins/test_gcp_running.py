"""The stand-in runs a job's own program: environment, buckets below /gcs, log, signals, restarts. Real processes, tiny programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Pace, Scene
from tests.standins.gcp_jobs import grpc_client, job, parent, program, storage_client, until

PACE = Pace(queued=0.05, provisioning=0.1, all_up=0.1, error_late=0.2, preempted=0.2, retry=0.1, grace=10.0)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[GcpStandin]:
    with GcpStandin.start(tmp_path / "gcp", mode="process", scene=Scene(pace=PACE)) as running:
        yield running


@pytest.fixture
def client(cloud: GcpStandin) -> Any:
    return grpc_client(cloud)


def lines(cloud: GcpStandin, task: str = "workerpool0-0") -> list[str]:
    return [entry.text for entry in cloud.logs.entries if entry.task == task]


def wait_for(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def start(cloud: GcpStandin, client: Any, code: str, *, env: dict[str, str] | None = None, name: str = "run", **more: Any) -> str:
    """A job whose container runs these lines of Python."""
    body = program(job(name, **more), "python3", "-c", code, env=env)
    return str(client.create_custom_job(parent=parent(cloud), custom_job=body).name)


def test_the_container_gets_the_platform_s_variables(cloud: GcpStandin, client: Any) -> None:
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv]))"
    name = start(cloud, client, code, env={"GREETING": "hello $(CLOUD_ML_PROJECT_ID)", "PRICE": "$$(5)"})
    until(cloud, client, name, "SUCCEEDED")
    environ, _ = json.loads(lines(cloud)[0])
    assert environ["AIP_MODEL_DIR"] == "gs://cloudtune-standin-bucket/runs/run/model/"
    assert environ["AIP_CHECKPOINT_DIR"] == "gs://cloudtune-standin-bucket/runs/run/checkpoints/"
    assert environ["AIP_TENSORBOARD_LOG_DIR"] == "gs://cloudtune-standin-bucket/runs/run/logs/"
    assert environ["CLOUD_ML_JOB_ID"] == name.rpartition("/")[2]
    assert environ["GREETING"] == "hello 123456789012"
    assert environ["PRICE"] == "$(5)"
    spec = json.loads(environ["CLUSTER_SPEC"])
    assert spec["task"] == {"type": "workerpool0", "index": 0, "trial": ""}
    assert spec["environment"] == "cloud"
    assert list(spec["cluster"]) == ["workerpool0"]


def test_buckets_lie_below_gcs_both_ways(cloud: GcpStandin, client: Any) -> None:
    bucket = storage_client(cloud).bucket(cloud.scene.bucket)
    bucket.blob("in/data.txt").upload_from_string(b"from the bucket")
    bucket.blob("in/old.txt").upload_from_string(b"old")
    code = f"""
import os, pathlib, time
home = pathlib.Path(os.environ["CLOUDTUNE_BUCKETS"]) / {cloud.scene.bucket!r}
assert (home / "in/data.txt").read_text() == "from the bucket"
(home / "out/deep").mkdir(parents=True)
(home / "out/deep/result.bin").write_bytes(b"x" * 100_000)
(home / "in/old.txt").unlink()
print("written", flush=True)
end = time.monotonic() + 20
while not (home / "later.txt").exists():
    assert time.monotonic() < end
    time.sleep(0.05)
(home / "in/data.txt").write_text("changed")
"""
    name = start(cloud, client, code)
    until(cloud, client, name, "RUNNING")
    wait_for(bucket.blob("out/deep/result.bin").exists)
    bucket.blob("later.txt").upload_from_string(b"go on")
    until(cloud, client, name, "SUCCEEDED")
    assert bucket.blob("out/deep/result.bin").download_as_bytes() == b"x" * 100_000
    assert bucket.blob("in/data.txt").download_as_text() == "changed"
    assert not bucket.blob("in/old.txt").exists()


def test_lines_of_the_program_are_in_the_log_with_their_replica(cloud: GcpStandin, client: Any) -> None:
    name = start(cloud, client, "import sys; print('out'); sys.stdout.flush(); print('err', file=sys.stderr)", pools=2)
    until(cloud, client, name, "SUCCEEDED")
    assert lines(cloud) == ["out", "err"]
    assert {entry.job for entry in cloud.logs.entries} == {name.rpartition("/")[2]}


def test_several_pools_know_each_other(cloud: GcpStandin, client: Any) -> None:
    code = """
import json, os, time
spec = json.loads(os.environ["CLUSTER_SPEC"])
print(json.dumps(spec["task"]), sum(map(len, spec["cluster"].values())), flush=True)
time.sleep(1.0 if spec["task"]["type"] == "workerpool0" else 60)
"""
    body = program(job(pools=2), "python3", "-c", code)
    body["job_spec"]["worker_pool_specs"][1]["replica_count"] = 2
    name = client.create_custom_job(parent=parent(cloud), custom_job=body).name
    until(cloud, client, name, "SUCCEEDED")
    # The primary ended with 0, so that the others were shut down although they would have slept on.
    assert lines(cloud) == ['{"type": "workerpool0", "index": 0, "trial": ""} 3']
    assert lines(cloud, "workerpool1-1") == ['{"type": "workerpool1", "index": 1, "trial": ""} 3']


def test_an_exit_code_fails_the_job_and_names_the_replica(cloud: GcpStandin, client: Any) -> None:
    name = start(cloud, client, "raise SystemExit(1)")
    until(cloud, client, name, "FAILED")
    wait_for(lambda: bool(client.get_custom_job(name=name).error.code))
    failed = client.get_custom_job(name=name)
    assert failed.error.code == 3
    assert "workerpool0-0 exited with a non-zero status of 1" in failed.error.message
    assert cloud.jobs()[0].attempt == 1


STOPPABLE = """
import os, pathlib, signal, sys, time
home = pathlib.Path(os.environ["CLOUDTUNE_BUCKETS"]) / "cloudtune-standin-bucket"
saved = home / "checkpoint"
print("resumed from " + saved.read_text() if saved.exists() else "from the beginning", flush=True)
def end(*_):
    saved.write_text("step 7")
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
if saved.exists():
    sys.exit(0)
print("ready", flush=True)
time.sleep(60)
"""


def test_cancel_sends_sigterm_and_leaves_time_to_save(cloud: GcpStandin, client: Any) -> None:
    name = start(cloud, client, STOPPABLE)
    until(cloud, client, name, "RUNNING")
    wait_for(lambda: "ready" in lines(cloud))
    client.cancel_custom_job(name=name)
    assert until(cloud, client, name, "CANCELLING", "CANCELLED")
    until(cloud, client, name, "CANCELLED")
    assert lines(cloud)[-1] == "saved"
    assert cloud.store.get(cloud.scene.bucket, "checkpoint").size == 6


def test_a_preempted_job_goes_on_from_what_it_saved(cloud: GcpStandin, client: Any) -> None:
    name = start(cloud, client, STOPPABLE, strategy=4)
    until(cloud, client, name, "RUNNING")
    wait_for(lambda: "ready" in lines(cloud))
    cloud.preempt("run")
    until(cloud, client, name, "SUCCEEDED")
    assert lines(cloud) == ["from the beginning", "ready", "saved", "resumed from step 7"]
    assert cloud.jobs("run")[0].attempt == 2


def test_who_does_not_listen_is_killed_after_the_grace(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.pace.grace = 0.5
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60); print('late')"
    name = start(cloud, client, code)
    until(cloud, client, name, "RUNNING")
    wait_for(lambda: "ready" in lines(cloud))
    client.cancel_custom_job(name=name)
    until(cloud, client, name, "CANCELLED", seconds=10)
    assert lines(cloud) == ["ready"]


def test_an_interrupted_worker_starts_again_on_its_own(cloud: GcpStandin, client: Any) -> None:
    code = """
import os, pathlib, sys
mark = pathlib.Path(os.environ["CLOUDTUNE_BUCKETS"]) / "cloudtune-standin-bucket/mark"
if mark.exists():
    sys.exit(0)
mark.write_text("x")
sys.exit(75)
"""
    name = start(cloud, client, code)
    until(cloud, client, name, "SUCCEEDED")
    assert [entry.text for entry in cloud.logs.entries if "Restarting" in entry.text] == [
        "The replica workerpool0-0 exited with a non-zero status of 75. Restarting it."
    ]
    assert cloud.jobs("run")[0].attempt == 1


def test_a_job_asks_the_metadata_server_and_the_secret_manager(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.secrets["hf"] = "hf_secretvalue"
    code = """
import os
from cloudtune_entry.credentials import fetch
print(fetch({"HF_TOKEN": "gcp:secretmanager:hf"}, os.environ)[0])
"""
    name = start(cloud, client, code)
    until(cloud, client, name, "SUCCEEDED", "FAILED")
    assert lines(cloud) == ["{'HF_TOKEN': 'hf_secretvalue'}"]


def test_a_closed_stand_in_leaves_no_process(tmp_path: Path) -> None:
    with GcpStandin.start(tmp_path / "gcp", mode="process", scene=Scene(pace=PACE)) as cloud:
        client = grpc_client(cloud)
        name = start(cloud, client, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
        until(cloud, client, name, "RUNNING")
        wait_for(lambda: bool(lines(cloud)))
        pid = int(lines(cloud)[0])
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_rehearsal_opens_it_in_the_plan_s_region_and_takes_machines_away(tmp_path: Path) -> None:
    """The two handles that ``cloudtune rehearse`` uses, found by the provider's name."""
    from cloudtune.standins.registry import open_cloud, standin
    from cloudtune.standins.runner import ProcessRunner

    with open_cloud("gcp", tmp_path / "cloud", "europe-west4", ProcessRunner()) as opened:
        assert opened.environment["CLOUDTUNE_GCP_REGION"] == "europe-west4"
        assert all(name.startswith(standin("gcp").login) for name in opened.environment)
        inner = opened._cloud  # type: ignore[attr-defined]
        client = grpc_client(inner)
        body = program(job(strategy=4), "python3", "-c", STOPPABLE)
        name = client.create_custom_job(parent=parent(inner, "europe-west4"), custom_job=body).name
        until(inner, client, name, "RUNNING")
        wait_for(lambda: "ready" in lines(inner))
        opened.take_away("run")
        until(inner, client, name, "SUCCEEDED")
        assert opened.starts("run") == 2
