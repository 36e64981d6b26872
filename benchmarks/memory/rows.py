"""Reading published measurements: one row of a CSV file -> typed facts. Judges nothing; ``programs.py`` does.

The columns are those of ``data/cases.csv`` and ``data/verdicts.csv``, whose head says where each row was published.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6, "bytes": 1}


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
    with path.open(encoding="utf-8", newline="") as file:
        return [_case(cells) for cells in csv.DictReader(file)]


def read_verdicts(path: Path) -> list[Row]:
    """All rows of a verdicts file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_verdict(cells) for cells in csv.DictReader(file)]


def _case(cells: dict[str, str]) -> Row:
    unit = UNITS.get(cells["unit"].strip())
    measured = _number(cells["measured_gb"])
    return Row(
        **_common(cells),
        gpus=int(_number(cells.get("n_gpus", "1")) or 1),
        parallelism=cells.get("parallelism", "none"),
        measured_bytes=round(measured * unit) if measured is not None and unit is not None else None,
        metric=cells["metric"].strip(),
        notes=cells.get("notes", ""),
    )


def _verdict(cells: dict[str, str]) -> Row:
    return Row(
        **_common(cells),
        gpus=1,
        parallelism="none",
        measured_bytes=None,
        metric="",
        notes=cells.get("notes", ""),
        outcome=cells["outcome"].strip().lower(),
        card_bytes=_mib(cells.get("card_mib", "")),
        context_bytes=_mib(cells.get("context_mib", "")),
    )


def _common(cells: dict[str, str]) -> dict[str, object]:
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
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """An exact whole number; ``<= 512`` and ``variable`` are none."""
    return int(text) if re.fullmatch(r"\d+", text.strip()) else None


def _mib(text: str) -> int | None:
    number = _number(text)
    return round(number * 2**20) if number is not None else None
