"""The learning rate's curve is transformers', but for a warm-up that begins above zero."""

from __future__ import annotations

from typing import Any

import pytest

from cloudtune.recipe.spec import TrainingSpec
from cloudtune_trainer.schedule import rate_at, warmup_steps

pytestmark = pytest.mark.stack
TOTAL = 50


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [{"warmup_ratio": 0.1}, {"warmup_steps": 0}, {"warmup_steps": 7}])
def test_curve(name: str, warmup: dict[str, Any]) -> None:
    import torch
    from transformers import get_scheduler

    training = TrainingSpec(learning_rate=2e-3, lr_scheduler=name, max_steps=TOTAL, **warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    first = warmup_steps(training, TOTAL)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=first, num_training_steps=TOTAL)
    rates = [rate_at(step, TOTAL, training) for step in range(TOTAL)]
    for step in range(TOTAL):
        if step >= first or name == "constant":
            assert rates[step] == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-12), step
        else:
            assert rates[step] == pytest.approx(2e-3 * (step + 1) / (first + 1))
        optimizer.step()
        scheduler.step()
