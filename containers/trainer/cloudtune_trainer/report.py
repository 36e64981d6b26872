"""What the run says while it runs: rows of ``metrics.jsonl``, the same as plain lines in the log, and trackers. Decides nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudtune.manifest import MetricsRow
from cloudtune.units import duration

SECONDS_BETWEEN_ROWS = 1.0
Tracker = Callable[[MetricsRow], None]


class Report:
    """The open metrics file. Only the first worker's report writes; the others' are silent."""

    def __init__(self, metrics: Path, *, speaks: bool = True) -> None:
        self.started = time.monotonic()
        self.speaks = speaks
        self.trackers: list[Tracker] = []
        self._path = metrics
        if speaks:
            metrics.parent.mkdir(parents=True, exist_ok=True)
            _drop_half_line(metrics)

    def row(self, phase: str, **values: Any) -> None:
        """Append one row at once, print it, and pass it to the trackers. ``values`` are the fields of MetricsRow."""
        if not self.speaks:
            return
        row = MetricsRow(at=round(time.time(), 3), phase=phase, elapsed_seconds=round(time.monotonic() - self.started, 2), **values)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json(exclude_none=True) + "\n")
        say(_line(row))
        for tracker in self.trackers:
            tracker(row)


def say(text: str) -> None:
    """One line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _drop_half_line(path: Path) -> None:
    """A killed process may have left a line without its end; what follows would make both unreadable."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _line(row: MetricsRow) -> str:
    pieces = [row.phase]
    if row.step is not None:
        pieces.append(f"step {row.step}/{row.total_steps}")
    for name, value, form in (
        ("loss", row.loss, ".4f"),
        ("eval loss", row.eval_loss, ".4f"),
        ("rate", row.learning_rate, ".3g"),
        ("norm", row.grad_norm, ".3g"),
        ("tokens/s", row.tokens_per_second, ".0f"),
    ):
        if value is not None:
            pieces.append(f"{name} {value:{form}}")
    if row.eta_seconds is not None:
        pieces.append(f"{duration(row.eta_seconds)} left")
    if row.message:
        pieces.append(row.message)
    return " · ".join(pieces)


class Pace:
    """Counts between two rows of the phase ``train``: mean loss, speed, time left."""

    def __init__(self, first_step: int, total_steps: int) -> None:
        self._first = first_step
        self._total = total_steps
        self._begun = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._since = time.monotonic()
        self._loss_sum = 0.0
        self._learned = 0
        self._tokens = 0

    def add(self, loss_sum: float, learned: int, tokens: int) -> None:
        """Count one optimizer step."""
        self._loss_sum += loss_sum
        self._learned += learned
        self._tokens += tokens

    def due(self, step: int) -> bool:
        """Whether a row should be written after ``step``: every second, and after the first and the last step."""
        return step == self._first + 1 or step == self._total or time.monotonic() - self._since >= SECONDS_BETWEEN_ROWS

    def row(self, step: int) -> dict[str, Any]:
        """Fields of MetricsRow for what was counted since the last row; counting begins again."""
        now = time.monotonic()
        left = (now - self._begun) / max(1, step - self._first) * (self._total - step)
        fields = {
            "step": step,
            "total_steps": self._total,
            "loss": round(self._loss_sum / max(1, self._learned), 6),
            "tokens_per_second": round(self._tokens / max(1e-6, now - self._since), 1),
            "eta_seconds": round(left, 1),
        }
        self._clear()
        return fields
