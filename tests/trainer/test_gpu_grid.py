"""The GPU grid's plumbing on a CPU: real jobs of a tiny model, rows with measured and predicted peaks, slices that go on."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "grid.py"


def grid(*arguments, folder):
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def test_every_case_has_its_own_name():
    spec = importlib.util.spec_from_file_location("gpu_grid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_grid"] = module
    spec.loader.exec_module(module)
    names = [case.id for case in module.grid()]
    assert len(names) == len(set(names)) > 100
    assert {case.method for case in module.grid()} == {"full", "lora", "qlora"}


@pytest.mark.stack
def test_without_a_gpu_it_refuses(tmp_path):
    ran = grid("--out", "rows.csv", folder=tmp_path)
    if ran.returncode != 2:
        pytest.skip("this machine has a GPU")
    assert "no CUDA device" in ran.stderr
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.full  # two whole jobs in processes of their own
@pytest.mark.stack
def test_two_slices_measure_two_jobs_and_the_third_finds_nothing_to_do(tmp_path):
    first = grid("--dry", "--out", "rows.csv", "--only", "lora", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    second = grid("--dry", "--out", "rows.csv", folder=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "lora" not in second.stderr
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["lora", "full"]
    for row in rows:
        assert row["outcome"] == "complete"
        assert int(row["host_rss_bytes"]) > 100e6
        assert int(row["predicted_peak_bytes"]) > 100e6
        assert float(row["tokens_per_second"]) > 0
        assert row["torch"]
        assert 0 < int(row["tokens"]) <= 6 * int(row["micro_batch"]) * 64
    assert grid("--dry", "--out", "rows.csv", "--list", folder=tmp_path).stdout.strip() == ""
