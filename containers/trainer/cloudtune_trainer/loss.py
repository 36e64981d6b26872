"""Batch → sum of the cross-entropy over its learned tokens, in nats. Two ways to the same number.

full     the model makes all logits; loss over all of them in fp32. Any model; 12 bytes per (token, word) at the peak.
chunked  the model makes hidden states; logits and loss come CHUNK learned tokens at a time and again in the backward pass,
         so only one chunk of logits ever exists. For decoders with a plain output head.

A sum and not a mean: the caller divides by the learned tokens of the whole optimizer step, so that accumulation, padding
and the number of workers do not change what is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cloudtune.errors import JobFailed
from cloudtune_trainer.batches import Batch
from cloudtune_trainer.tokens import IGNORED

CHUNK = 1024
"""Learned tokens whose logits exist at once; the memory estimate reckons with the same number."""


class TokenLoss(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """Wraps the model so that data parallel training sees one forward: ``Batch`` → scalar."""

    def __init__(self, model: Any, *, causal: bool, chunked: bool) -> None:
        super().__init__()
        self.model = model
        self.causal = causal
        self.chunked = chunked

    def forward(self, batch: Batch | None, question: Callable[[Any], Any] | None = None) -> Any:
        """The loss of ``batch``; or what ``question`` finds in the model, whose sharded weights are whole only in here."""
        if question is not None:
            return question(self.model)
        assert batch is not None  # noqa: S101 - one of the two is given
        targets = next_tokens(batch.labels) if self.causal else batch.labels
        if self.chunked:
            return chunked_loss(decoder_of(self.model), batch, targets)
        return full_loss(self.model, batch, targets)


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Labels moved one place to the left: position i learns what stands at i + 1; the last learns nothing."""
    return functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]


def inputs_of(batch: Batch) -> dict[str, Any]:
    """Arguments for the model's forward. Without a cache object: with one, packed rows would see each other."""
    places = {"position_ids": batch.position_ids, "attention_mask": batch.attention_mask}
    given = {name: value for name, value in places.items() if value is not None}
    return {"input_ids": batch.input_ids, **given, **({"use_cache": False} if batch.attention_mask is None else {})}


def full_loss(model: Any, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all logits [lines, width, words]."""
    logits = model(**inputs_of(batch)).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def chunked_loss(decoder: Any, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
    """The same number from hidden states, CHUNK learned tokens at a time."""
    body = decoder.get_decoder()
    hidden = body(**inputs_of(batch)).last_hidden_state
    learned = targets != IGNORED
    states, words = hidden[learned], targets[learned]
    total = states.sum() * 0.0 if not len(words) else torch.zeros((), device=states.device)  # a graph also without any learned token
    for some, wanted in zip(states.split(CHUNK), words.split(CHUNK), strict=True):
        total = total + checkpoint(_chunk, decoder, some, wanted, use_reentrant=False)
    return total


def _chunk(decoder: Any, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    logits = decoder.get_output_embeddings()(states).float()
    return functional.cross_entropy(_shaped(decoder.config, logits), words, reduction="sum")


def _shaped(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """What some families do to logits after the head: Gemma caps, Granite divides, Cohere multiplies."""
    text = config.get_text_config()
    if cap := getattr(text, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    if divisor := getattr(text, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(text, "logit_scale", None):
        logits = logits * factor
    return logits


def decoder_of(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_chunked(model: Any, batch: Batch) -> None:
    """Raise JobFailed when both ways disagree on ``batch``: the model does something to its logits that we do not know."""
    targets = next_tokens(batch.labels)
    with torch.no_grad():
        full = float(full_loss(model, batch, targets))
        chunked = float(chunked_loss(decoder_of(model), batch, targets))
    if not abs(full - chunked) <= 0.01 * max(1.0, abs(full)):
        kind = decoder_of(model).config.model_type
        raise JobFailed(
            f"the chunked loss does not fit {kind} models ({chunked:.4f}, full loss {full:.4f})", hint="set training.fused_loss: false"
        )
