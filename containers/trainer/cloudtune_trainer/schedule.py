"""The learning rate as a function of the step. Pure, so that a resumed run needs no scheduler state.

The curves are those of transformers' ``get_scheduler`` and a test compares them, with one difference: the warm-up
begins above zero, because a first step at rate zero computes a gradient and throws it away.
"""

from __future__ import annotations

import math

from cloudtune.recipe.spec import TrainingSpec


def warmup_steps(training: TrainingSpec, total: int) -> int:
    """Optimizer steps of the warm-up; a ratio is rounded up, as transformers does."""
    if training.warmup_steps is not None:
        return training.warmup_steps
    return math.ceil(total * (training.warmup_ratio or 0.0))


def rate_at(step: int, total: int, training: TrainingSpec) -> float:
    """Learning rate of optimizer step ``step`` (counted from 0) of ``total``."""
    peak = float(training.learning_rate)
    warmup = warmup_steps(training, total)
    if step < warmup and training.lr_scheduler != "constant":
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    match training.lr_scheduler:
        case "constant" | "constant_with_warmup":
            return peak
        case "linear":
            return peak * max(0.0, 1.0 - progress)
        case "cosine":
            return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "polynomial":
            # transformers' defaults: power 1 down to 1e-7
            return peak * max(0.0, 1.0 - progress) + 1e-7 * min(1.0, progress)
        case "inverse_sqrt":
            # transformers' default: the time scale is the warm-up, or 10,000 steps without one
            scale = warmup or 10_000
            return peak / math.sqrt((step + scale - warmup) / scale)
