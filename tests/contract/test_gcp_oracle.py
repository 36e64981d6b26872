"""Our CustomJob against the one that Google's high-level SDK sends for the same wishes, captured on the wire by the stand-in.

There is no difference to justify. What the SDK adds on its own is a staging bucket and a folder below it when no base folder
is given; ours is always given. ``aiplatform.CustomJob`` takes 5 s of processor time to import, so it runs once, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from google.protobuf.json_format import MessageToDict

from cloudtune.clock import SystemClock
from cloudtune.job import LaunchId
from cloudtune.providers.base import Request
from cloudtune.providers.gcp.jobs import GcpJobs
from cloudtune.standins.gcp.cloud import GcpStandin
from tests.unit.gcp_builders import Project, body_of, gcp_plan

ORACLE = """
import json, sys
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1.types import Scheduling

wish = json.load(sys.stdin)
aiplatform.init(project=wish["project"], location=wish["region"], staging_bucket=wish["base"], api_transport="rest",
                api_endpoint=wish["endpoint"], credentials=AnonymousCredentials())
for case in wish["cases"]:
    job = aiplatform.CustomJob(
        display_name=case["display_name"], worker_pool_specs=case["pools"], base_output_dir=case["base"], labels=case["labels"],
        encryption_spec_key_name=case["key"])
    job.submit(service_account=case["account"], network=case["network"], timeout=case["timeout"],
               restart_job_on_worker_restart=case["restart"], scheduling_strategy=Scheduling.Strategy[case["strategy"]],
               max_wait_duration=case["wait"])
"""

KEY = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
CASES = {
    "plain": {},
    "spot": {"purchase": "spot"},
    "flex": {"purchase": "flex_start", "nodes": 2, "update": {"max_seconds": 7000}},
    "all": {"gcp": {"network": "projects/1/global/networks/n", "kms_key": KEY}, "disk_gib": 300},
}


def snake(name):
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def pythonic(value):
    """Our JSON names as the SDK's dictionaries spell them; environment entries keep theirs."""
    if isinstance(value, dict):
        return {snake(key): pythonic(inner) for key, inner in value.items()}
    return [pythonic(one) for one in value] if isinstance(value, list) else value


def wish_of(custom_job):
    spec = custom_job["jobSpec"]
    scheduling = spec["scheduling"]
    seconds = {name: int(scheduling[name].removesuffix("s")) for name in ("timeout", "maxWaitDuration") if name in scheduling}
    return {
        "display_name": custom_job["displayName"],
        "pools": pythonic(spec["workerPoolSpecs"]),
        "base": spec["baseOutputDirectory"]["outputUriPrefix"],
        "labels": custom_job["labels"],
        "key": custom_job.get("encryptionSpec", {}).get("kmsKeyName"),
        "account": spec.get("serviceAccount"),
        "network": spec.get("network"),
        "timeout": seconds["timeout"],
        "wait": seconds.get("maxWaitDuration"),
        "restart": scheduling["restartJobOnWorkerRestart"],
        "strategy": scheduling["strategy"],
    }


def flat(value, path=""):
    """Leaf → value, by path."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}.{name}" if path else name).items()}
    if isinstance(value, list):
        return {key: leaf for index, inner in enumerate(value) for key, leaf in flat(inner, f"{path}[{index}]").items()}
    return {path: value}


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with GcpStandin.start(tmp_path / "cloud", mode="timed") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def test_the_high_level_sdk_sends_the_same(cloud, tmp_path):
    scene = cloud.scene
    settings = Project(scene.project, scene.bucket, scene.region, scene.service_account, gcp_endpoint=cloud.url)
    ours = {}
    for name, changes in CASES.items():
        body = body_of(gcp_plan(tmp_path, **changes), launch_id=f"{name}-abc", settings=settings)
        GcpJobs(settings, SystemClock()).submit(Request("gcp", LaunchId(f"{name}-abc"), body))
        ours[name] = body["customJob"]
    sent = {job.body.labels["cloudtune_run"]: job for job in cloud.jobs()}
    wish = {
        "project": scene.project, "region": scene.region, "endpoint": cloud.url, "base": f"gs://{scene.bucket}",
        "cases": [wish_of(job) for job in ours.values()],
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", ORACLE], input=json.dumps(wish), env=os.environ, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    theirs = [job for job in cloud.jobs() if job not in sent.values()]
    assert len(theirs) == len(CASES)
    for job in theirs:
        name = job.body.labels["cloudtune_run"]
        mine, other = (flat(MessageToDict(type(one.body).pb(one.body))) for one in (sent[name], job))
        assert len(mine) >= 20
        different = {key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)}
        assert different == set(), {key: (mine.get(key), other.get(key)) for key in different}
