"""Sequence mixers other than plain softmax attention: latent attention (MLA) and the gated delta rule. Sizes only.

Sources: transformers 5.23 models/deepseek_v3/modeling_deepseek_v3.py and models/qwen3_next/modeling_qwen3_next.py
(torch_chunk_gated_delta_rule, the path without the flash-linear-attention library). The delta rule is counted by its
large tensors, not operation by operation; its error bar says so.
"""

from __future__ import annotations

from cloudtune.memory.attending import heads_of, mix
from cloudtune.memory.attention import rotate
from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context
from cloudtune.memory.inventory import Layer, no_template
from cloudtune.memory.lora import apply
from cloudtune.memory.norms import norm
from cloudtune.memory.ops import activation, add, cast, concatenate, copy, matmul, multiply, narrow, scale, split, tanh
from cloudtune.models.shape import AttentionShape

CHUNK = 64


def latent_attention(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> tuple[Value, Value | None]:
    """Queries and a narrow state of keys and values, expanded to all heads before the kernel."""
    run, casting = ctx.run, ctx.casting
    rotated = shape.rope_dim or 0
    plain = shape.head_dim - rotated
    query = _latent_queries(ctx, layer, value)
    passed, turned = split(run, query, (ctx.tokens * shape.heads * plain, ctx.tokens * shape.heads * rotated))
    compressed = apply(run, layer.one("self_attn.kv_a_proj_with_mqa"), value, casting)
    rank = shape.kv_rank or 0
    latent, key_turned = split(run, compressed, (ctx.tokens * rank, ctx.tokens * rotated))
    latent = _named_norm(ctx, layer, "self_attn.kv_a_layernorm", latent, rank)
    if ctx.cos is not None and ctx.sin is not None:
        turned = rotate(run, turned, ctx.cos, ctx.sin)
        key_turned = rotate(run, key_turned, ctx.cos, ctx.sin)
    query = concatenate(run, (passed, turned), "queries")
    expanded = apply(run, layer.one("self_attn.kv_b_proj"), latent, casting)
    key_plain, values = split(run, expanded, (ctx.tokens * shape.heads * plain, ctx.tokens * shape.heads * shape.v_head_dim))
    whole_turned = Value(key_turned.store, ctx.tokens * shape.heads * rotated, key_turned.word, key_turned.node)
    key = concatenate(run, (key_plain, whole_turned), "keys")
    mixed, weights = mix(ctx, query, key, values, heads_of(ctx, shape))
    return apply(run, layer.one("self_attn.o_proj"), mixed, casting), weights


def _latent_queries(ctx: Context, layer: Layer, value: Value) -> Value:
    if "self_attn.q_proj" in layer.linear:
        return apply(ctx.run, layer.one("self_attn.q_proj"), value, ctx.casting)
    narrowed = apply(ctx.run, layer.one("self_attn.q_a_proj"), value, ctx.casting)
    width = layer.one("self_attn.q_a_proj").out_features
    narrowed = _named_norm(ctx, layer, "self_attn.q_a_layernorm", narrowed, width)
    return apply(ctx.run, layer.one("self_attn.q_b_proj"), narrowed, ctx.casting)


def _named_norm(ctx: Context, layer: Layer, name: str, value: Value, width: int) -> Value:
    weights = layer.norm(name)
    if weights is None:
        raise no_template(f"{ctx.shape.model_type} (no {name})")
    return norm(ctx, weights, value, width)


def linear_attention(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> Value:
    """Short convolution, fp32 copies of queries, keys and values, chunked products, gated norm."""
    run, casting, tokens = ctx.run, ctx.casting, ctx.tokens
    projected = [apply(run, linear, value, casting) for name, linear in layer.linear.items() if ".in_proj_" in name]
    keys, values = tokens * shape.kv_heads * shape.head_dim, tokens * shape.heads * shape.v_head_dim
    widest = max(projected, key=lambda item: item.count)
    mixed = copy(run, narrow(run, widest, 2 * keys + values), "queries, keys and values")
    mixed = activation(run, activation(run, mixed, name="convolution"))
    query, key, inner = split(run, mixed, (keys, keys, values))
    count = tokens * shape.heads * shape.head_dim
    query, key = (_normalised(ctx, cast(run, copy(run, item, "repeated heads", count), 4), shape) for item in (query, key))
    inner = cast(run, inner, 4, "values in fp32")
    beta = tanh(run, narrow(run, inner, tokens * shape.heads), "beta")
    weighted_values = multiply(run, inner, beta, "values x beta")
    weighted_keys = multiply(run, key, beta, "keys x beta")
    out = _chunks(ctx, shape, query, weighted_keys, weighted_values)
    gate = narrow(run, widest, values)
    gated = multiply(run, cast(run, out, value.word, "mixed in 16 bit"), activation(run, gate, name="gate"), "gated")
    return apply(run, layer.one("linear_attn.out_proj"), gated, casting)


def _normalised(ctx: Context, value: Value, shape: AttentionShape) -> Value:
    run = ctx.run
    rows = value.count // shape.head_dim
    return scale(run, multiply(run, value, tanh(run, narrow(run, value, rows), "inverse norm"), "normed"), "scaled")


def _chunks(ctx: Context, shape: AttentionShape, query: Value, key: Value, value: Value) -> Value:
    """Products within chunks of 64 tokens, and a state per chunk that the next one reads."""
    run, tokens = ctx.run, ctx.tokens
    within = tokens * shape.heads * CHUNK
    scores = tanh(run, matmul(run, query, key, within, "scores in chunks"), "decayed scores")
    inverse = tanh(run, scale(run, scores, "triangular system"), "inverse in chunks")
    inner = matmul(run, inverse, value, value.count, "values in chunks")
    steps = -(-tokens // CHUNK)
    states = matmul(run, key, inner, steps * shape.heads * shape.head_dim * shape.v_head_dim, "states of the chunks")
    return add(run, matmul(run, query, states, value.count, "across chunks"), matmul(run, scores, inner, value.count, "within chunks"))
