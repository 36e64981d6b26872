"""Encoders: embeddings, layers and heads of BERT, RoBERTa, DistilBERT and ModernBERT. Sizes only.

Local names live as long as those of transformers 5.23 models/bert, roberta, distilbert and modernbert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloudtune.memory.attending import heads_of, mix
from cloudtune.memory.attention import Heads, rotate
from cloudtune.memory.autograd import Leaf, Value
from cloudtune.memory.context import Context
from cloudtune.memory.feed import fused_gated
from cloudtune.memory.inventory import Layer, no_template
from cloudtune.memory.lora import apply
from cloudtune.memory.norms import norm
from cloudtune.memory.ops import Weight, activation, add, dropout, embedding, heads_view, split

Weights = Mapping[str, Weight]


def is_post_norm(layer: Layer) -> bool:
    """BERT's family: the norm comes after the residual sum."""
    return layer.norm("attention.output.LayerNorm", "sa_layer_norm") is not None


def encoder_stem(ctx: Context, weights: Weights) -> Value:
    """Sum of word, type and position vectors, normed and dropped out."""
    run, width = ctx.run, ctx.shape.hidden_size
    tables = [tensor for tensor in ctx.shape.stem if tensor.kind in {"embedding", "position"}]
    words = next(tensor for tensor in tables if tensor.kind == "embedding")
    value = embedding(run, ctx.tokens, width, weights[words.name])
    if ctx.input_gradients and value.node is None:
        value.node = Leaf("word embeddings", value.count, value.word, value.store)
    for tensor in tables:
        if tensor is not words:
            count = ctx.length if tensor.kind == "position" else ctx.tokens
            value = add(run, value, embedding(run, count, width, weights[tensor.name], "position vectors"), "embeddings")
    for tensor in ctx.shape.stem:
        if tensor.kind == "norm" and tensor.name.endswith(".weight"):
            value = norm(ctx, (weights[tensor.name], weights.get(f"{tensor.module}.bias")), value, width)
    return dropout(run, value, ctx.shape.hidden_dropout)


def encoder_layer(ctx: Context, layer: Layer, value: Value) -> Value:
    """One layer of either kind."""
    if is_post_norm(layer):
        return _post_norm(ctx, layer, value)
    if "attn.Wqkv" in layer.linear:
        return _modern(ctx, layer, value)
    raise no_template(ctx.shape.model_type)


def _post_norm(ctx: Context, layer: Layer, value: Value) -> Value:
    run, chance = ctx.run, ctx.shape.hidden_dropout
    mixed, _weights = _attention(ctx, layer, value)
    mixed = dropout(run, apply(run, layer.one("attention.output.dense", "attention.out_lin"), mixed, ctx.casting), chance)
    middle = _norm(ctx, layer, add(run, mixed, value, "residual sum"), "attention.output.LayerNorm", "sa_layer_norm")
    del mixed
    fed = apply(run, layer.one("intermediate.dense", "ffn.lin1"), middle, ctx.casting)
    fed = activation(run, fed, layer.block.mlp.activation)
    fed = dropout(run, apply(run, layer.one("output.dense", "ffn.lin2"), fed, ctx.casting), chance)
    return _norm(ctx, layer, add(run, fed, middle, "residual sum"), "output.LayerNorm", "output_layer_norm")


def _attention(ctx: Context, layer: Layer, value: Value) -> tuple[Value, Value | None]:
    run, casting = ctx.run, ctx.casting
    first = ctx.behaviour.attention == "eager"
    query = heads_view(run, apply(run, layer.one("attention.self.query", "attention.q_lin"), value, casting), copied=first)
    key = heads_view(run, apply(run, layer.one("attention.self.key", "attention.k_lin"), value, casting), copied=first)
    values = heads_view(run, apply(run, layer.one("attention.self.value", "attention.v_lin"), value, casting), copied=first)
    assert layer.block.attention is not None  # noqa: S101
    return mix(ctx, query, key, values, replace(heads_of(ctx, layer.block.attention), plain_softmax=True))


def _norm(ctx: Context, layer: Layer, value: Value, *names: str) -> Value:
    weights = layer.norm(*names)
    if weights is None:
        raise no_template(f"{ctx.shape.model_type} (no {names[0]})")
    return norm(ctx, weights, value, ctx.shape.hidden_size)


def _modern(ctx: Context, layer: Layer, value: Value) -> Value:
    """ModernBERT: norms before, rotary positions, one matrix for q, k, v and one for gate and up."""
    run = ctx.run
    shape = layer.block.attention
    assert shape is not None  # noqa: S101
    first = layer.norm("attn_norm")
    normed = value if first is None else norm(ctx, first, value, ctx.shape.hidden_size)
    both = apply(run, layer.one("attn.Wqkv"), normed, ctx.casting)
    del normed
    query, key, values = split(run, both, (both.count // 3,) * 3)
    if ctx.cos is not None and ctx.sin is not None:
        query, key = rotate(run, query, ctx.cos, ctx.sin), rotate(run, key, ctx.cos, ctx.sin)
    heads: Heads = heads_of(ctx, shape)
    mixed, _weights = mix(ctx, query, key, values, heads)
    del query, key, values, both
    value = add(run, value, apply(run, layer.one("attn.Wo"), mixed, ctx.casting), "residual stream")
    del mixed
    fed = fused_gated(ctx, layer, "mlp", _norm(ctx, layer, value, "mlp_norm"))
    return add(run, value, fed, "residual stream")


def head_states(ctx: Context, weights: Weights, value: Value) -> Value:
    """What comes between the last layer and the vocabulary: final norm, transform, activation, norm, in stored order."""
    run = ctx.run
    output = ctx.shape.output_embedding
    for tensor in ctx.shape.head:
        if tensor.name == output:
            break
        if tensor.kind == "norm" and tensor.name.endswith(".weight"):
            value = norm(ctx, (weights[tensor.name], weights.get(f"{tensor.module}.bias")), value, ctx.shape.hidden_size)
        elif tensor.kind == "linear":
            value = activation(run, apply(run, ctx.ends[tensor.name], value, ctx.casting), ctx.shape.blocks[0].mlp.activation)
    return value
