"""Mean loss over the held-out sequences. Deterministic; changes nothing in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from cloudtune_trainer.batches import Batch, causal_batch, masked_batch
from cloudtune_trainer.fourbit import as_served
from cloudtune_trainer.loss import TokenLoss
from cloudtune_trainer.surroundings import StopSign
from cloudtune_trainer.tokens import IGNORED, Sequence
from cloudtune_trainer.workers import Workers


def mean_loss(
    model: TokenLoss,
    batches: list[list[Sequence]],
    pad: int,
    workers: Workers,
    precision: AbstractContextManager[Any],
    stop: StopSign,
    *,
    together: bool = False,
) -> float | None:
    """Nats per learned token over all ``batches``: total loss ÷ total tokens, so batch sizes do not matter.

    None when the process is asked to end meanwhile. ``together``: the model is sharded, so every worker must run it as
    often as the others; one that has no batch left runs one that does not count.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=workers.device)
    learned = 0
    with torch.no_grad(), as_served(model):
        for batch, counts in _own_batches(model.causal, batches, pad, workers, together=together):
            if workers.any(stop.up) if together else stop.up:
                break
            with precision:
                loss = model(batch).double()
            if counts:
                total += loss
                learned += int((batch.labels != IGNORED).sum())
    model.train(was_training)
    nats, tokens = workers.total([float(total), float(learned)])
    return None if workers.any(stop.up) else nats / max(1.0, tokens)


def _own_batches(
    causal: bool, batches: list[list[Sequence]], pad: int, workers: Workers, *, together: bool
) -> Iterator[tuple[Batch, bool]]:
    """This worker's batches, each with whether it counts."""
    make = causal_batch if causal else masked_batch
    own = [(chosen, True) for chosen in batches[workers.rank :: workers.count]]
    missing = -(-len(batches) // workers.count) - len(own) if together else 0
    for chosen, counts in [*own, *[(batches[-1], False)] * missing]:
        yield make([(sequence,) for sequence in chosen], pad, workers.device), counts


def eval_batches(sequences: tuple[Sequence, ...], size: int) -> list[list[Sequence]]:
    """Equal lengths together, longest first: little padding, and what does not fit shows at once."""
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
