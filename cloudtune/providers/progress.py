"""The newest rows of a job's ``metrics.jsonl`` as a Progress. Pure: takes bytes, tolerates torn and foreign lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cloudtune.job import Progress

SPARK_POINTS = 48
_TRAINING = frozenset({"train", "eval", "save", "done"})
_NUMBERS = ("epoch", "loss", "eval_loss", "tokens_per_second", "elapsed_seconds", "eta_seconds")


def progress_of(tail: bytes) -> tuple[Progress, float] | None:
    """(progress, Unix time of the newest row) from the end of a metrics file; None without a whole row.

    Once it trains, a value that the newest row leaves out is taken from the last row that has it, except the ETA.
    """
    rows = list(_rows(tail))
    if not rows:
        return None
    newest = rows[-1]
    known: dict[str, Any] = {}
    lasting = [row for row in rows if row["phase"] in _TRAINING] if newest["phase"] in _TRAINING else [newest]
    for row in lasting:
        known.update({name: value for name in _NUMBERS if (value := _number(row.get(name))) is not None})
        known.update({name: value for name in ("step", "total_steps") if isinstance(value := row.get(name), int)})
    known["eta_seconds"] = _number(newest.get("eta_seconds"))
    losses = [value for row in rows if row.get("phase") == "train" and (value := _number(row.get("loss"))) is not None]
    progress = Progress(phase=newest["phase"], losses=tuple(losses[-SPARK_POINTS:]), **known)
    return progress, _number(newest.get("at")) or 0.0


def _rows(tail: bytes) -> Iterator[dict[str, Any]]:
    whole, _, _ = tail.rpartition(b"\n")  # what follows the last line end is still being written
    yield from _objects(whole.split(b"\n"))


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("phase"), str):
            yield row


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
