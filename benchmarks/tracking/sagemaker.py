"""1,000 SageMaker jobs followed at once: calls, CPU and memory of a poll cycle, against the stand-in.

    python benchmarks/tracking/sagemaker.py [--jobs 1000] [--cycles 1000] [--changing 3]

The stand-in lives in this process, so its memory would be counted too: it runs in a child that is forked first. CPU is that
of this process (all threads), not wall time. In each cycle ``--changing`` jobs end; the pause between two lists is set to 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLOUD = """
import json, sys
from datetime import timedelta
from pathlib import Path
from cloudtune.standins.aws.account import Account
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.standins.aws.record import Record
folder, count = Path(sys.argv[1]), int(sys.argv[2])
with AwsStandin.start(folder, mode="scripted", account=Account()) as cloud:
    past = cloud.clock.now() - timedelta(hours=1)
    request = {"OutputDataConfig": {"S3OutputPath": "s3://b/p"}, "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1}}
    for number in range(count):
        name = f"job-{number:05d}"
        record = Record({"TrainingJobName": name, **request}, cloud.account.arn(name), past, [])
        record.attempt_began = record.training_began = past
        record.move("Training", "in progress", past)
        cloud.sagemaker.records[name] = record
    print(json.dumps(cloud.environment), flush=True)
    for line in sys.stdin:  # a name to end, or "calls"
        word = line.strip()
        if word != "calls":
            cloud.finish(word)
        print(json.dumps(dict(cloud.faults.calls)), flush=True)
"""


def resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--changing", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", CLOUD, f"{name}/cloud", str(options.jobs)]
        with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cloud:
            try:
                os.environ.update(json.loads(cloud.stdout.readline() if cloud.stdout else "{}"))
                follow(options, Path(name), cloud)
            finally:
                cloud.terminate()


def tell(cloud: subprocess.Popen[str], word: str) -> Counter[str]:
    """End a job of the stand-in, or ask for its count of calls."""
    if cloud.stdin is None or cloud.stdout is None:
        raise SystemExit("the stand-in has no pipes")
    cloud.stdin.write(f"{word}\n")
    cloud.stdin.flush()
    return Counter(json.loads(cloud.stdout.readline()))


def follow(options: argparse.Namespace, folder: Path, cloud: subprocess.Popen[str]) -> None:
    sys.path.insert(0, str(ROOT))
    from cloudtune.clock import SystemClock
    from cloudtune.job import JobRef
    from cloudtune.providers.aws.client import Regions
    from cloudtune.providers.aws.jobs import AwsJobs
    from cloudtune.providers.aws.logs import AwsLogs

    regions = Regions(folder / "home")
    service = AwsJobs(regions, SystemClock(), AwsLogs(regions, SystemClock()), least_seconds=0)
    refs = [JobRef("aws", "us-east-1", f"job-{number:05d}") for number in range(options.jobs)]
    cpu = cycle(service, refs)
    first = tell(cloud, "calls")
    print(f"first sight of {options.jobs} jobs: {cpu:.2f} s CPU, calls {dict(first)}")
    for _ in range(20):
        cycle(service, refs)
    gc.collect()
    memory, before, times = resident_mib(), tell(cloud, "calls"), []
    began = time.monotonic()
    for number in range(options.cycles):
        for other in range(options.changing):
            tell(cloud, refs[(number * options.changing + other) % options.jobs].name)
        times.append(cycle(service, refs))
    gc.collect()
    calls = tell(cloud, "calls") - before
    each = {name: round(count / options.cycles, 3) for name, count in sorted(calls.items())}
    print(f"{options.cycles} cycles in {time.monotonic() - began:.0f} s: calls per cycle {each}")
    print(f"CPU per cycle: median {statistics.median(times) * 1000:.1f} ms, longest {max(times) * 1000:.1f} ms")
    print(f"resident memory: {memory:.1f} MiB before, {resident_mib():.1f} MiB after; remembered {service.watch('us-east-1').remembered}")


def cycle(service: Any, refs: list[Any]) -> float:
    """One poll of everything; CPU seconds of this process."""
    began = time.process_time()
    readings = service.poll(refs)
    if len(readings) != len(refs):
        raise SystemExit("a reading is missing")
    return time.process_time() - began


if __name__ == "__main__":
    main()
