"""``cloudtune plan`` of every shipped recipe beside ``accelerate estimate-memory``, as ratios in one run.

    python benchmarks/cli/plans.py [--rounds 3] [--json]

accelerate's command asks the hub for the model's config; so that both work offline, its own functions are run on a
config from this repository (meta-device model, sizes of its layers), in a fresh interpreter like the command itself.
It answers one question (bytes per dtype); a plan answers machine, layout, memory, time and price over 200 offers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEER = """
from transformers import LlamaConfig, AutoModelForCausalLM
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                     num_key_value_heads=8, vocab_size=128256)
with init_empty_weights():
    model = AutoModelForCausalLM.from_config(config)
print(calculate_maximum_sizes(model))
"""


def once(arguments: list[str], folder: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDTUNE_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    ran = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {ran.returncode}:\n{ran.stderr}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    recipes = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem != "quickstart"]
    commands = {"accelerate estimate-memory (8B)": ["-c", PEER]}
    commands |= {f"cloudtune plan {path.stem}": ["-m", "cloudtune", "plan", str(path)] for path in recipes}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.rounds):
            for name, arguments in commands.items():
                seconds[name].append(once(arguments, folder))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["accelerate estimate-memory (8B)"]
    rows = [{"command": name, "seconds": round(value, 2), "ratio": round(value / base, 2)} for name, value in medians.items()]
    if asked.json:
        print(json.dumps({"rows": rows, "rounds": asked.rounds}, indent=1))
        return
    for row in rows:
        print(f"{row['command']:<44} {row['seconds']:>7.2f} s   {row['ratio']:>5.2f} x")


if __name__ == "__main__":
    main()
