"""Start-up of the command as a ratio to ``python -c "import typer, rich"``, both measured in this run.

    python benchmarks/cli/startup.py [--rounds 15] [--json]

The commands are run in turn, round after round, so that a busy moment hits all of them; the figure is the median of
CPU seconds (user + system) of the process and of wall seconds. Bytecode is warm, as it is for a person who types a
second command. The goal is 1.5 for what people type all day (--help, ps, status); validate and plan read YAML and
build a typed recipe, which needs pydantic and a YAML reader: their floor is shown as its own line.
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
BASE = "import typer, rich"
GOAL = 1.5
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")

COMMANDS = {
    "import typer, rich (the base)": ["-c", BASE],
    "import typer, pydantic, ruamel.yaml": ["-c", "import typer, ruamel.yaml; from pydantic import BaseModel, Field, model_validator"],
    "cloudtune --help": ["-m", "cloudtune", "--help"],
    "cloudtune --version": ["-m", "cloudtune", "--version"],
    "cloudtune ps": ["-m", "cloudtune", "ps"],
    "cloudtune validate": ["-m", "cloudtune", "validate", QUICKSTART],
    "cloudtune plan": ["-m", "cloudtune", "plan", QUICKSTART, "--provider", "local"],
    "cloudtune plan, every cloud": ["-m", "cloudtune", "plan", QUICKSTART],
    "cloudtune render": ["-m", "cloudtune", "render", QUICKSTART, "--provider", "local", "-o", "bundle"],
}


def once(arguments: list[str], folder: str) -> tuple[float, float]:
    """CPU and wall seconds of one fresh interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {"CLOUDTUNE_HOME": f"{folder}/home", "CLOUDTUNE_CONFIG": f"{folder}/none.toml", "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
    environment = {**kept, **own, "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {ran.returncode}:\n{ran.stderr.decode()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for name, arguments in COMMANDS.items():
                sample = once(arguments, folder)
                if number:  # the first round warms bytecode and disk
                    times[name].append(sample)
    cpu = {name: statistics.median(sample[0] for sample in samples) for name, samples in times.items()}
    wall = {name: statistics.median(sample[1] for sample in samples) for name, samples in times.items()}
    base = next(iter(COMMANDS))
    rows = {
        name: {
            "cpu_ms": cpu[name] * 1e3,
            "wall_ms": wall[name] * 1e3,
            "ratio": cpu[name] / cpu[base],
            "wall_ratio": wall[name] / wall[base],
        }
        for name in COMMANDS
    }
    if options.json:
        print(json.dumps({"rounds": options.rounds, "goal": GOAL, "commands": rows}, indent=2))
        return
    print(f"{'':36} {'CPU ms':>8} {'wall ms':>8} {'ratio':>6} {'(wall)':>7}   goal <= {GOAL}")
    for name, row in rows.items():
        print(f"{name:36} {row['cpu_ms']:8.1f} {row['wall_ms']:8.1f} {row['ratio']:6.2f} {row['wall_ratio']:7.2f}")


if __name__ == "__main__":
    main()
