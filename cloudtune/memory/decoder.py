"""Decoder layers: norms, attention, feed-forward and residuals in the orders that the families have. Sizes only.

The local names of these functions live as long as those of the model files they follow (transformers 5.23), because
that is how long the tensors live.
"""

from __future__ import annotations

from cloudtune.memory.attending import heads_first, heads_of, mix
from cloudtune.memory.attention import rotate, rotate_part
from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context
from cloudtune.memory.feed import feed
from cloudtune.memory.inventory import Layer, no_template
from cloudtune.memory.lora import apply
from cloudtune.memory.mixers import latent_attention, linear_attention
from cloudtune.memory.norms import norm
from cloudtune.memory.ops import add, heads_view, multiply, narrow, tanh
from cloudtune.models.shape import AttentionShape

# families whose code rotates a part of each head and puts both parts together again
PARTIAL = frozenset({"phi", "phi3"})

Mixed = tuple[Value, Value | None]


def decoder_layer(ctx: Context, layer: Layer, value: Value) -> Value:
    """One layer; which residual form by the norms that it has."""
    if ctx.shape.parallel:
        return _parallel(ctx, layer, value)
    if layer.norm("pre_feedforward_layernorm") is not None:
        return _four_norms(ctx, layer, value)
    if layer.norm("input_layernorm") is None:
        return _norms_after(ctx, layer, value)
    return _norms_before(ctx, layer, value)


def _named(ctx: Context, layer: Layer, name: str, value: Value) -> Value:
    weights = layer.norm(name)
    if weights is None:
        raise no_template(f"{ctx.shape.model_type} (no {name})")
    return norm(ctx, weights, value, ctx.shape.hidden_size)


def _norms_before(ctx: Context, layer: Layer, value: Value) -> Value:
    residual = value
    value = _named(ctx, layer, "input_layernorm", value)
    value, _weights = attention(ctx, layer, value)
    value = add(ctx.run, residual, value, "residual stream")
    residual = value
    value = _named(ctx, layer, "post_attention_layernorm", value)
    value = feed(ctx, layer, value)
    return add(ctx.run, residual, value, "residual stream")


def _four_norms(ctx: Context, layer: Layer, value: Value) -> Value:
    residual = value
    value = _named(ctx, layer, "input_layernorm", value)
    value, _weights = attention(ctx, layer, value)
    value = _named(ctx, layer, "post_attention_layernorm", value)
    value = add(ctx.run, residual, value, "residual stream")
    residual = value
    value = _named(ctx, layer, "pre_feedforward_layernorm", value)
    value = feed(ctx, layer, value)
    value = _named(ctx, layer, "post_feedforward_layernorm", value)
    return add(ctx.run, residual, value, "residual stream")


def _norms_after(ctx: Context, layer: Layer, value: Value) -> Value:
    residual = value
    value, _weights = attention(ctx, layer, value)
    value = _named(ctx, layer, "post_attention_layernorm", value)
    value = add(ctx.run, residual, value, "residual stream")
    residual = value
    value = feed(ctx, layer, value)
    value = _named(ctx, layer, "post_feedforward_layernorm", value)
    return add(ctx.run, residual, value, "residual stream")


def _parallel(ctx: Context, layer: Layer, value: Value) -> Value:
    """Attention and MLP read the same norm (or one each) and are added together."""
    residual = value
    first = layer.norm("input_layernorm", "ln_attn")
    second = layer.norm("ln_mlp")
    if first is None:
        raise no_template(ctx.shape.model_type)
    normed = norm(ctx, first, value, ctx.shape.hidden_size)
    other = norm(ctx, second, value, ctx.shape.hidden_size) if second is not None else normed
    mixed, _weights = attention(ctx, layer, normed)
    fed = feed(ctx, layer, other)
    return add(ctx.run, add(ctx.run, mixed, fed, "attention + MLP"), residual, "residual stream")


def attention(ctx: Context, layer: Layer, value: Value) -> Mixed:
    """The sequence mixer of a decoder layer: its output, and the attention weights that the layer goes on holding."""
    shape = layer.block.attention
    if shape is None:
        raise no_template(ctx.shape.model_type)
    if shape.kind == "mla":
        return latent_attention(ctx, layer, shape, value)
    if shape.kind == "linear":
        return linear_attention(ctx, layer, shape, value), None
    return _softmax_attention(ctx, layer, shape, value)


def _softmax_attention(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> Mixed:
    run = ctx.run
    query, key, values, gate = _project(ctx, layer, shape, value)
    if ctx.cos is not None and ctx.sin is not None:
        turn = rotate_part if ctx.shape.model_type in PARTIAL else rotate
        query, key = turn(run, query, ctx.cos, ctx.sin), turn(run, key, ctx.cos, ctx.sin)
    heads = heads_of(ctx, shape)
    mixed, weights = mix(ctx, query, key, values, heads)
    if gate is not None:
        mixed = multiply(run, mixed, tanh(run, gate, "gate"), "gated attention")
    out = layer.one("self_attn.o_proj", "self_attn.dense", "self_attention.dense")
    return apply(run, out, mixed, ctx.casting), weights


def _project(ctx: Context, layer: Layer, shape: AttentionShape, value: Value) -> tuple[Value, Value, Value, Value | None]:
    """Queries, keys, values and the output gate."""
    run, casting = ctx.run, ctx.casting
    tokens = ctx.tokens
    if shape.fused:
        both = apply(run, layer.one("self_attn.qkv_proj", "self_attention.query_key_value"), value, casting)
        query = narrow(run, both, tokens * shape.heads * shape.head_dim)
        key = narrow(run, both, tokens * shape.kv_heads * shape.head_dim)
        values = narrow(run, both, tokens * shape.kv_heads * shape.v_head_dim)
        return query, key, values, None
    turned = ctx.cos is not None  # what the rotation hands back lies heads first
    first = heads_first(ctx, heads_of(ctx, shape))
    query = heads_view(run, apply(run, layer.one("self_attn.q_proj"), value, casting), copied=turned or first)
    gate = None
    if shape.gated:
        gate = narrow(run, query, query.count // 2)
        query = narrow(run, query, query.count // 2)
    query = _normed(ctx, layer, "self_attn.q_norm", query)
    key = heads_view(run, apply(run, layer.one("self_attn.k_proj", "self_attn.q_proj"), value, casting), copied=turned or first)
    key = _normed(ctx, layer, "self_attn.k_norm", key)
    values = apply(run, layer.one("self_attn.v_proj", "self_attn.k_proj", "self_attn.q_proj"), value, casting)
    values = heads_view(run, values, copied=first)
    return query, key, values, gate


def _normed(ctx: Context, layer: Layer, name: str, value: Value) -> Value:
    weights = layer.norm(name, name.replace("_norm", "_layernorm"))
    return value if weights is None else norm(ctx, weights, value, weights[0].count)
