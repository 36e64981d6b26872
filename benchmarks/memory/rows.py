"""Reading published measurements: one row of a CSV file -> typed facts. Judges nothing; ``programs.py`` does.

The columns are those of ``data/cases.csv`` and ``data/verdicts.csv``, whose head says where each row was published.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNITS = {"gib": 2**30, "mib": 2**20, "gb": 10**9, "mb": 10**6, "bytes": 1}
RAN = frozenset({"completed", "complete", "ok", "success", "fits", "ran", "run"})


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure, or one outcome (then ``outcome`` is set and the metric is empty)."""

    id: str
    source: str
    model: str
    method: str
    quant: str
    rank: int | None
    targets: tuple[str, ...] | str
    length: int | None
    batch: int | None
    checkpointing: str
    attention: str
    optimizer: str
    dtype: str
    gpu: str
    gpus: int
    parallelism: str
    measured_bytes: int | None
    metric: str
    notes: str
    outcome: str = ""
    card_bytes: int | None = None
    context_bytes: int | None = None


def read_cases(path: Path) -> list[Row]:
    """All rows of a cases file."""
    return [_case(cells) for cells in _cells(path)]


def read_verdicts(path: Path) -> list[Row]:
    """All rows of a verdicts file."""
    return [_verdict(cells) for cells in _cells(path)]


class Cells(dict[str, str]):
    """One row of a file; a column that it lacks is empty."""

    def __missing__(self, _key: str) -> str:
        return ""


def _cells(path: Path) -> list[Cells]:
    """Rows as they stand: cells beyond the head are dropped, missing ones are empty, a row without an id gets its number."""
    rows = []
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        for number, cells in enumerate(csv.DictReader(file), 2):
            row = Cells({(key or "").strip(): value or "" for key, value in cells.items() if isinstance(value, str | None)})
            row["id"] = row["id"].strip() or f"line {number}"
            rows.append(row)
    return rows


def _case(cells: Cells) -> Row:
    unit = UNITS.get(cells["unit"].strip().lower())
    measured = _number(cells["measured_gb"])
    return Row(
        **_common(cells),
        gpus=max(1, _whole(cells["n_gpus"]) or 1),
        parallelism=cells["parallelism"].strip() or "none",
        measured_bytes=round(measured * unit) if measured is not None and unit is not None else None,
        metric=cells["metric"].strip().lower(),
        notes=cells["notes"],
    )


def _verdict(cells: Cells) -> Row:
    outcome = cells["outcome"].strip().lower()
    return Row(
        **_common(cells),
        gpus=1,
        parallelism="none",
        measured_bytes=None,
        metric="",
        notes=cells["notes"],
        outcome="oom" if "oom" in outcome or "memory" in outcome else "completed" if outcome in RAN else outcome,
        card_bytes=_mib(cells["card_mib"]),
        context_bytes=_mib(cells["context_mib"]),
    )


def _common(cells: Cells) -> dict[str, Any]:
    return {
        "id": cells["id"],
        "source": cells["source"],
        "model": cells["model"].strip(),
        "method": cells["method"].strip().lower(),
        "quant": cells["quant"].strip().lower(),
        "rank": _whole(cells["lora_rank"]),
        "targets": targets(cells["lora_targets"]),
        "length": _whole(cells["seq_len"]),
        "batch": _whole(cells["micro_batch"]),
        "checkpointing": cells["grad_checkpointing"].strip().lower(),
        "attention": cells["attention_impl"].strip().lower(),
        "optimizer": cells["optimizer"].strip().lower(),
        "dtype": cells["dtype"].strip().lower(),
        "gpu": cells["gpu"],
    }


def targets(text: str) -> tuple[str, ...] | str:
    """``q,k,v,o`` or full module names as module names; ``all linear`` as the word of recipes."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if not words or any(word.startswith("all") for word in words):
        return "all-linear"
    return tuple(f"{word}_proj" if word in {"q", "k", "v", "o", "gate", "up", "down"} else word for word in words)


def _number(text: str) -> float | None:
    """A plain positive number; ``~5``, ``OOM``, ``nan`` and nothing are none."""
    return (float(text) or None) if re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text.strip()) else None


def _whole(text: str) -> int | None:
    """An exact whole number; ``<= 512`` and ``variable`` are none."""
    return int(text) if re.fullmatch(r"\d{1,12}", text.strip()) else None


def _mib(text: str) -> int | None:
    number = _number(text)
    return round(number * 2**20) if number is not None else None
