"""``cloudtune ps`` with 10,000 jobs in the ledger against the same command on an empty one.

    python benchmarks/tracking/ps.py [--jobs 10000] [--open 0] [--rounds 9] [--json]

Both commands are fresh interpreters, run in turn so that a busy moment hits both; figures are medians of wall seconds
and of CPU seconds. The goal is at most 0.150 s of wall time beyond the empty ledger. ``--open`` of the jobs are still
running as far as the ledger knows and are asked about on this machine. The ledger is filled through its own methods,
five events a job.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GOAL_SECONDS = 0.150
PLAN = json.dumps({"plan": "x" * 20_000})  # about the size of a real plan with its candidates


def fill(home: Path, jobs: int, still_open: int) -> None:
    """A ledger with ``jobs`` launches; the newest ``still_open`` have not ended."""
    from cloudtune.clock import SystemClock
    from cloudtune.job import JobRef, JobState, LaunchId, Progress, Reading
    from cloudtune.ledger.ledger import Launch, Ledger

    ledger = Ledger(home, SystemClock())
    ledger._database.read(lambda connection: connection.execute("PRAGMA synchronous = OFF"))  # noqa: SLF001 - filling only
    for number in range(jobs):
        job = LaunchId(f"bench-{number:06d}")
        ref = JobRef("local", "this-machine", job)
        ledger.intend(Launch(job, "local", f"recipe-{number % 50}", PLAN, "{}", 1.5, 1), output_dir="/runs")
        ledger.confirm(job, ref)
        ledger.record([(job, Reading(ref, JobState.RUNNING, "training", progress=Progress("train", step=1, total_steps=9, loss=1.0)))])
        if number < jobs - still_open:
            ledger.record([(job, Reading(ref, JobState.SUCCEEDED, "complete", exit_code=0, outputs="file:///nowhere"))])
            ledger.append(job, "collected", {"to": f"/runs/{job}"})
    ledger.close()


def once(home: Path, arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one command over ``home``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDTUNE_HOME": str(home), "CLOUDTUNE_CONFIG": str(home / "none.toml")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "cloudtune", *arguments], cwd=home, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=0, dest="still_open")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        fill(empty, 0, 0)
        fill(full, options.jobs, options.still_open)
        size = sum(path.stat().st_size for path in full.glob("ledger.db*"))
        results = {}
        for name, arguments in {"ps": ["ps"], "ps --json": ["ps", "--json"], "ps --all --json": ["ps", "--all", "--json"]}.items():
            times = [(once(empty, arguments), once(full, arguments)) for _ in range(options.rounds + 1)][1:]
            walls = [statistics.median(pair[side][0] for pair in times) for side in (0, 1)]
            cpus = [statistics.median(pair[side][1] for pair in times) for side in (0, 1)]
            results[name] = {"empty_wall": walls[0], "full_wall": walls[1], "empty_cpu": cpus[0], "full_cpu": cpus[1]}
    report = {"jobs": options.jobs, "open": options.still_open, "ledger_bytes": size, "goal_seconds": GOAL_SECONDS, "commands": results}
    if options.json:
        print(json.dumps(report))
    else:
        print(f"{options.jobs:,} jobs, {options.still_open} of them open, ledger of {size / 2**20:.0f} MiB")
        for name, row in results.items():
            extra = row["full_wall"] - row["empty_wall"]
            print(f"  {name:16} {row['empty_wall']:.3f} s empty, {row['full_wall']:.3f} s full: {extra:+.3f} s wall, "
                  f"{row['full_cpu'] - row['empty_cpu']:+.3f} s CPU")  # fmt: skip
    return 0 if results["ps"]["full_wall"] - results["ps"]["empty_wall"] <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
