"""256 MiB up and down, in many files and in one, cloudtune against ``aws s3 cp`` on the same small object server.

    python -m venv /tmp/cli && /tmp/cli/bin/pip install awscli
    python benchmarks/transfer/against_aws_cli.py /tmp/cli/bin/aws [--rounds 5] [--mib 256]

Both are whole programs, started anew each time, in turns; wall time, CPU time and peak resident memory of the program
(RUSAGE of the child). cloudtune also reckons every file's sha256 and, coming home, checks and flushes it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMALL = 256 << 10


@dataclass(frozen=True)
class Ran:
    wall: float
    cpu: float
    peak_mib: float


def make(folder: Path, mib: int) -> dict[str, Path]:
    """The same bytes as one file and as many."""
    one, many = folder / "one", folder / "many"
    one.mkdir()
    many.mkdir()
    with (one / "model.bin").open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    for number in range((mib << 20) // SMALL):
        (many / f"{number:05d}.bin").write_bytes(os.urandom(SMALL))
    return {"one": one, "many": many}


def run(command: list[str], environ: dict[str, str]) -> Ran:
    """A child of a child, because RUSAGE_CHILDREN tells the largest peak of all children together."""
    code = (
        "import resource, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.returncode)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, *command], env=environ, capture_output=True, text=True, check=True)
    wall, cpu, peak, status = map(float, said.stdout.split())
    if status:
        raise SystemExit(f"{command} failed:\n{said.stderr}")
    return Ran(wall, cpu, peak)


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["diff", "-r", "-q", one, other], check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("aws")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--only", choices=("one", "many"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {kind: source for kind, source in make(folder, options.mib).items() if options.only in (None, kind)}
        with subprocess.Popen([sys.executable, HERE / "server.py", folder / "objects"], stdout=subprocess.PIPE, text=True) as server:
            try:
                port = server.stdout.readline().strip() if server.stdout else ""
                table(sources, folder, port, options)
            finally:
                server.terminate()


def table(sources: dict[str, Path], folder: Path, port: str, options: argparse.Namespace) -> None:
    environ = {
        **os.environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }  # fmt: skip
    ours, home = [sys.executable, str(HERE / "ours.py")], folder / "home"
    print(f"{'':22}{'MiB/s ours':>12}{'aws s3 cp':>12}{'ratio':>8}{'peak ours':>12}{'aws s3 cp':>12}{'cpu s ours':>12}{'aws':>7}")
    for kind, source in sources.items():
        for way in ("up", "down"):
            mine, theirs = [], []
            for number in range(options.rounds):
                uri = f"s3://bench/{kind}{number if way == 'up' else 0}/"
                for who, found in (("ours", mine), ("aws", theirs)) if number % 2 else (("aws", theirs), ("ours", mine)):
                    shutil.rmtree(home, ignore_errors=True)
                    place = uri.replace("bench/", "bench/ours/") if who == "ours" else uri
                    pair = [str(source), place] if way == "up" else [place, str(home)]
                    command = [*ours, way, place, str(source if way == "up" else home)] if who == "ours" else [
                        options.aws, "s3", "cp", "--recursive", "--only-show-errors", *pair]  # fmt: skip
                    os.sync()
                    found.append(run(command, environ))
                    if way == "down" and not same(source, home):
                        raise SystemExit(f"{who}: what came home is not what was sent")
            show(f"{options.mib} MiB {kind:5}{way}", mine, theirs, options.mib)


def show(name: str, mine: list[Ran], theirs: list[Ran], mib: int) -> None:
    speed = [mib / statistics.median(ran.wall for ran in each) for each in (mine, theirs)]
    ratio = statistics.median(b.wall / a.wall for a, b in zip(mine, theirs, strict=True))
    peak = [max(ran.peak_mib for ran in each) for each in (mine, theirs)]
    cpu = [statistics.median(ran.cpu for ran in each) for each in (mine, theirs)]
    print(
        f"{name:22}{speed[0]:12.0f}{speed[1]:12.0f}{ratio:8.2f}{peak[0]:9.0f} MiB{peak[1]:9.0f} MiB{cpu[0]:12.1f}{cpu[1]:7.1f}", flush=True
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s in all")
