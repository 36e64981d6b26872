"""Polling many Vertex AI jobs: calls, CPU seconds and memory of one round, by the launcher's own job service and Google's client.

    python benchmarks/tracking/gcp.py [--jobs 1000] [--running 20] [--rounds 5] [--json]

The stand-in runs as a process of its own, so that CPU and memory are the launcher's alone. ``--running`` of the jobs run
and have a small metrics file in the bucket; the others wait in the queue, short of quota. The goal is 1,000 jobs in at most
12 lists a round (a page of the service has 100) and one file read for each job that runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
METRICS = "".join(
    json.dumps({"at": 1.0 + step, "phase": "train", "step": step, "total_steps": 900, "loss": 2.0, "tokens_per_second": 900.0}) + "\n"
    for step in range(1, 101)
)


def ask(url: str, body: Any = None, data: bytes | None = None) -> Any:
    sent = json.dumps(body).encode() if body is not None else data
    request = urllib.request.Request(url, data=sent, headers={"Content-Type": "application/json"})  # noqa: S310 - our own stand-in
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


def fill(base: str, environment: dict[str, str], jobs: int, running: int) -> list[str]:
    """Make the jobs; those that run are made first and get a metrics file."""
    project, bucket = environment["CLOUDTUNE_GCP_PROJECT"], environment["CLOUDTUNE_GCP_BUCKET"]
    names = [f"bench-{number:06d}" for number in range(jobs)]
    for number, name in enumerate(names):
        output = f"gs://{bucket}/cloudtune/jobs/{name}"
        machine = {"machineType": "g2-standard-8", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}
        pool = {"machineSpec": machine, "replicaCount": 1, "containerSpec": {"imageUri": "us-docker.pkg.dev/p/r/i:t"}}
        spec = {
            "workerPoolSpecs": [pool],
            "scheduling": {"timeout": "86400s"},
            "baseOutputDirectory": {"outputUriPrefix": output},
        }
        body = {"displayName": name, "labels": {"cloudtune_run": name}, "jobSpec": spec}
        ask(f"{base}/v1/projects/{project}/locations/us-central1/customJobs", body)
        if number == running - 1:
            ask(f"{base}/standin/advance", {"seconds": 2})
            ask(f"{base}/v1/projects/{project}/locations/us-central1/customJobs")
            ask(f"{base}/standin/advance", {"seconds": 30})
        if number < running:
            place = f"{base}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=cloudtune/jobs/{name}/output/data/metrics.jsonl"
            ask(place, data=METRICS.encode())
    return names


def measure(environment: dict[str, str], names: list[str], rounds: int, base: str) -> dict[str, Any]:
    os.environ.update(environment)
    from cloudtune.clock import SystemClock
    from cloudtune.job import JobRef, LaunchId
    from cloudtune.providers.gcp.jobs import GcpJobs

    settings: Any = SimpleNamespace(
        gcp_project=environment["CLOUDTUNE_GCP_PROJECT"],
        gcp_bucket=environment["CLOUDTUNE_GCP_BUCKET"],
        gcp_region=environment["CLOUDTUNE_GCP_REGION"],
        gcp_service_account=None,
        gcp_endpoint=environment["CLOUDTUNE_GCP_ENDPOINT"],
    )
    service = GcpJobs(settings, SystemClock())
    refs = [JobRef("gcp", f"{settings.gcp_project}.{settings.gcp_region}", LaunchId(name)) for name in names]
    service.poll(refs)  # imports, the login, the first connection
    rss = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    before, walls, cpus = ask(f"{base}/standin/calls"), [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        readings = service.poll(refs)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        rss.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    after = ask(f"{base}/standin/calls")
    calls = {name: (after[name] - before.get(name, 0)) / rounds for name in after if after[name] != before.get(name, 0)}
    states: dict[str, int] = {}
    for reading in readings:
        states[str(reading.state)] = states.get(str(reading.state), 0) + 1
    return {
        "jobs": len(names),
        "states": states,
        "with_progress": sum(reading.progress is not None for reading in readings),
        "calls_per_round": calls,
        "cpu_seconds": statistics.median(cpus),
        "wall_seconds": statistics.median(walls),
        "max_rss_mib": [round(value / 1024) for value in (rss[0], rss[-1])],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--running", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quota = json.dumps({"quotas": {"custom_model_training_nvidia_l4_gpus": options.running}, "quota_shape": "queue"})
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cloudtune.standins.gcp", "--folder", folder, "--mode", "timed", "--speed", "0", "--scene", quota]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as standin:
            try:
                environment = json.loads(standin.stdout.readline() if standin.stdout else "{}")
                base = environment["CLOUDTUNE_GCP_ENDPOINT"]
                names = fill(base, environment, options.jobs, options.running)
                report = measure(environment, names, options.rounds, base)
            finally:
                standin.terminate()
    if options.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:16} {value}")
    lists = report["calls_per_round"].get("ListCustomJobs", 0)
    return 0 if lists <= options.jobs / 100 + 2 else 1


if __name__ == "__main__":
    sys.exit(main())
