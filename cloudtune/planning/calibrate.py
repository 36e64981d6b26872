"""What your own runs say about speed: measured against predicted, by GPU and method. Pure.

With one or two runs a factor is pulled half-way to 1; the range narrows as runs come in, never below ± 15 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cloudtune.planning.duration import spread
from cloudtune.planning.speeds import GpuSpeed, gpu_speed

NARROWEST = 1.15
PULL = 2  # imaginary runs that were predicted exactly


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished run: what was measured and what the time model without calibration says for the same run, tokens/s."""

    gpu: str
    method: str
    tokens_per_second: float
    predicted_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors on the expected time (above 1: slower than predicted) and the number of runs behind each, by (GPU, method)."""

    runs: tuple[tuple[str, str, float, int], ...] = ()

    def factor(self, gpu: str, method: str) -> float:
        """The factor for this GPU and method, 1 when nothing was measured."""
        return next((factor for name, kind, factor, _ in self.runs if (name, kind) == (gpu, method)), 1.0)

    def of(self, gpu: GpuSpeed, method: str) -> tuple[float, float]:
        """(factor, spread) for a GPU: the spread is the factor around the expected time, see ``duration.spread``."""
        count = next((runs for name, kind, _, runs in self.runs if (name, kind) == (gpu.name, method)), 0)
        wide = spread(gpu)
        return self.factor(gpu.name, method), max(NARROWEST, wide ** (1 / math.sqrt(1 + count)))


def calibrate(measured: Iterable[Measured]) -> Calibration:
    """The geometric mean of predicted ÷ measured speed per (GPU, method); rows that are not positive are left out."""
    logs: dict[tuple[str, str], list[float]] = {}
    for run in measured:
        if run.tokens_per_second > 0 and run.predicted_tokens_per_second > 0:
            name = "cpu" if run.gpu == "cpu" else gpu_speed(run.gpu).name
            logs.setdefault((name, run.method), []).append(math.log(run.predicted_tokens_per_second / run.tokens_per_second))
    return Calibration(
        tuple((gpu, method, math.exp(sum(values) / (len(values) + PULL)), len(values)) for (gpu, method), values in sorted(logs.items()))
    )
