"""The trainer's log lines (cloudtune_trainer/report.py) read back as rows, and rows as a Progress. Pure.

train · step 5/20 · loss 1.2345 · rate 0.0002 · norm 0.51 · tokens/s 850 · 3 min 05 s left
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from cloudtune.job import Progress
from cloudtune.providers.progress import SPARK_POINTS, progress_of

_PHASES: Final = frozenset({"prepare", "load", "tokenize", "train", "eval", "save", "done"})
_STEP: Final = re.compile(r"step (\d+)/(\d+)")
_NUMBER: Final = re.compile(r"(eval loss|loss|rate|norm|tokens/s) (-?(?:\d[\d.]*(?:e[+-]?\d+)?|nan|inf))", re.IGNORECASE)
_NAMES: Final = {"eval loss": "eval_loss", "loss": "loss", "rate": "learning_rate", "norm": "grad_norm", "tokens/s": "tokens_per_second"}
_LEFT: Final = re.compile(r"(?:(\d+) h )?(?:(\d+) min)?(?: ?(\d+) s)? left")


def row_of(line: str) -> dict[str, Any] | None:
    """One line as the fields of a MetricsRow; None for a line that is no such row."""
    phase, *pieces = line.strip().split(" · ")
    if phase not in _PHASES:
        return None
    row: dict[str, Any] = {"phase": phase}
    for piece in pieces:
        if step := _STEP.fullmatch(piece):
            row["step"], row["total_steps"] = int(step[1]), int(step[2])
        elif number := _NUMBER.fullmatch(piece):
            row[_NAMES[number[1].lower()]] = float(number[2])
        elif (left := _LEFT.fullmatch(piece)) and any(left.groups()):
            hours, minutes, seconds = (int(part or 0) for part in left.groups())
            row["eta_seconds"] = float(hours * 3600 + minutes * 60 + seconds)
    return row


class Rows:
    """The newest rows of one job's log: enough of them for a curve, and no more."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=SPARK_POINTS + 16)
        self._progress: Progress | None = None

    def add(self, lines: Iterable[str]) -> None:
        """Take further lines of the log; lines that are no rows change nothing."""
        rows = [row for line in lines if (row := row_of(line)) is not None]
        if not rows:
            return
        self._rows.extend(rows)
        found = progress_of(b"".join(json.dumps(row).encode() + b"\n" for row in self._rows))
        self._progress = found[0] if found else None

    @property
    def progress(self) -> Progress | None:
        """What the rows say together; None before the first."""
        return self._progress
