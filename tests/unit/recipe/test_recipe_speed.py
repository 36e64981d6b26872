"""Loading stays quick: a normal recipe in milliseconds, and the loader imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from cloudtune.recipe.load import load_file

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "tests" / "data" / "recipes" / "qlora-on-completions.yaml"
HEAVY = {
    "torch",
    "transformers",
    "boto3",
    "botocore",
    "sagemaker",
    "google",
    "grpc",
    "pandas",
    "pyarrow",
    "numpy",
    "typer",
    "rich",
    "jsonschema",
}


def test_a_normal_recipe_loads_in_milliseconds() -> None:
    load_file(RECIPE)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        load_file(RECIPE)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.030


def test_the_loader_imports_nothing_heavy_and_is_quick() -> None:
    """Start-up of the loader over that of pydantic and ruamel.yaml, which it needs; the bound is loose for busy machines."""
    code = (
        "import json, sys, time\n"
        "import pydantic, ruamel.yaml\n"
        "began = time.process_time()\n"
        "import cloudtune.recipe.load\n"
        "print(json.dumps([time.process_time() - began, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    seconds, modules = json.loads(done.stdout)
    assert not HEAVY & set(modules)
    assert seconds < 0.15
