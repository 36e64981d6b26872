"""Sequence mixers other than softmax attention: latent attention (MLA) and the gated delta rule. Sizes only."""

from __future__ import annotations

from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context
from cloudtune.memory.inventory import Layer
from cloudtune.models.shape import AttentionShape


def latent_attention(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> Value:
    return value


def linear_attention(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> Value:
    return value
