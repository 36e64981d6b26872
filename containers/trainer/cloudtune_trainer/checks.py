"""Questions asked of the loaded model before the first step, so that what would spoil a run silently ends it with a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from cloudtune.errors import JobFailed
from cloudtune_trainer.batches import Group, causal_batch, length
from cloudtune_trainer.loss import decoder_of, inputs_of
from cloudtune_trainer.tokens import Sequence

_LOOK = 64
"""Tokens of each of two neighbours that are looked at."""
_MOST_LEAK = 0.05
"""Change of a logit by a neighbour, in standard deviations of the logits. Rounding alone gives none to 0.01: LLM.int8 and
experts look at the whole line."""


def check_length(model: Any, longest: int) -> None:
    """Raise JobFailed when ``longest`` tokens are more than a model with learned positions has places for."""
    for name, module in decoder_of(model).named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in ("position_embeddings", "wpe"):
            # RoBERTa and its kin count from behind the padding's place.
            places = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            if longest > places:
                raise JobFailed(
                    f"the model has {places} positions, the longest row has {longest} tokens", hint=f"set data.max_length: {places}"
                )


def check_packing(model: Any, groups: list[Group], pad: int, device: torch.device, *, flat: bool) -> None:
    """Raise JobFailed when a packed row's logits depend on its neighbour. Recurrent and hybrid models do not restart there."""
    packed = next((group for group in groups if len(group) > 1), None)
    if packed is None:
        return
    first, second = (Sequence(row.ids[:_LOOK], row.labels[:_LOOK], row.row) for row in packed[:2])
    other = Sequence(np.ascontiguousarray(first.ids[::-1]), first.labels, first.row)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = [_logits_of_last(model, (neighbour, second), pad, device, flat=flat) for neighbour in (first, other)]
    model.train(was_training)
    if float((found[0] - found[1]).abs().max()) > _MOST_LEAK * float(found[0].std()):
        kind = decoder_of(model).config.model_type
        raise JobFailed(f"packed rows of {kind} models see each other", hint="set data.packing: false")


def _logits_of_last(model: Any, group: Group, pad: int, device: torch.device, *, flat: bool) -> torch.Tensor:
    batch = causal_batch([group], pad, device, flat=flat)
    logits: torch.Tensor = decoder_of(model)(**inputs_of(batch)).logits[0, length(group[:1]) :].float()
    return logits
