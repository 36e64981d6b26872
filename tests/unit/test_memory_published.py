"""The reckoning against published measurements: the targets of the memory issue on the rows in the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "memory" / "published.py"
DATA = ROOT / "benchmarks" / "memory" / "data"


@pytest.fixture(scope="module")
def answer() -> dict:
    command = [sys.executable, str(SCRIPT), str(DATA / "cases.csv"), "--verdicts", str(DATA / "verdicts.csv"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT)
    return json.loads(done.stdout)


def errors(answer: dict, metric: str, wanted: set[str] | None = None) -> list[float]:
    found = [row for row in answer["rows"] if row["scored"] and row["metric"] == metric]
    return [abs(row["error"]) for row in found if wanted is None or row["id"] in wanted]


def ids(*conditions: tuple[str, str]) -> set[str]:
    import csv

    with (DATA / "cases.csv").open(encoding="utf-8") as file:
        return {row["id"] for row in csv.DictReader(file) if all(row[key].startswith(value) for key, value in conditions)}


def test_allocated_is_within_half_a_percent_and_never_three(answer: dict) -> None:
    found = errors(answer, "max_allocated")
    assert len(found) >= 54
    assert median(found) <= 0.005
    assert max(found) <= 0.03


def test_reserved_is_within_two_percent_for_16_bit_sdpa_and_three_for_nf4(answer: dict) -> None:
    plain = errors(answer, "max_reserved", ids(("quant", "none"), ("attention_impl", "sdpa"), ("source", "fitcheck")))
    packed = errors(answer, "max_reserved", ids(("quant", "nf4")))
    assert len(plain) >= 10
    assert len(packed) >= 20
    assert median(plain) <= 0.02
    assert median(packed) <= 0.03


def test_reserved_of_16_bit_runs_on_a_t4_is_right_to_a_few_mebibytes(answer: dict) -> None:
    """With either kernel: which cached block a tensor takes is known."""
    wanted = ids(("quant", "none"), ("source", "fitcheck"))
    found = [row for row in answer["rows"] if row["id"] in wanted and row["metric"] == "max_reserved"]
    assert len(found) == 20
    assert all(abs(row["predicted_bytes"] - row["measured_bytes"]) <= 8.1 * 2**20 for row in found)


def test_reserved_of_runs_on_two_gpus_is_within_two_percent_and_five(answer: dict) -> None:
    """The eleven runs of FSDP 1 and DDP; of the 70B one with offload the docs say that it is not explained."""
    found = sorted(errors(answer, "max_reserved", ids(("source", "AnswerDotAI/fsdp_qlora"))))
    assert len(found) == 11
    assert median(found) <= 0.02
    assert found[-2] <= 0.05


def test_what_the_device_shows_is_within_two_percent(answer: dict) -> None:
    assert max(errors(answer, "nvidia-smi")) <= 0.02


def test_every_verdict_is_right(answer: dict) -> None:
    assert len(answer["verdicts"]) == 6
    assert all(verdict["right"] for verdict in answer["verdicts"])
    assert {verdict["predicted"] for verdict in answer["verdicts"]} == {"completed", "oom"}


def test_no_row_is_dropped_and_every_unscored_row_says_why(answer: dict) -> None:
    with (DATA / "cases.csv").open(encoding="utf-8") as file:
        assert len(answer["rows"]) == sum(1 for _ in file) - 1
    for row in answer["rows"]:
        assert row.keys() >= {"id", "metric", "measured_bytes", "predicted_bytes", "error", "scored", "reason"}
        assert row["scored"] or row["reason"]
        assert not row["scored"] or row["error"] == pytest.approx(row["predicted_bytes"] / row["measured_bytes"] - 1)
