"""Attention in its kinds: softmax with shared keys, fused projections, latent (MLA), and the gated delta rule. Pure.

Each function reads its integers from the config and returns the shape with the tensors in the order in which
transformers 5.23 registers them.
"""

from __future__ import annotations

from typing import Literal

from cloudtune.models.fields import Fields
from cloudtune.models.parts import Mixer, Tensors, linear, norm, parameter
from cloudtune.models.shape import AttentionShape

QkNorm = Literal["none", "head", "all"]
"""Whether queries and keys are normed: not at all, per head, or over all heads at once."""


def head_width(fields: Fields) -> int:
    """``head_dim`` as written, else hidden size ÷ heads."""
    written = fields.maybe_integer("head_dim")
    if written is not None:
        return written
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if hidden < heads:
        raise fields.fault("num_attention_heads", f"{heads} heads do not fit into hidden_size {hidden}")
    return hidden // heads


def key_heads(fields: Fields, heads: int) -> int:
    """``num_key_value_heads`` as written, else one per query head; must divide the query heads."""
    count = fields.maybe_integer("num_key_value_heads") or heads
    if heads % count:
        raise fields.fault("num_key_value_heads", f"{count} does not divide num_attention_heads {heads}")
    return count


def window_of(fields: Fields, layer_type: str) -> int | None:
    """How many tokens a query of this kind of layer sees; None = all."""
    if layer_type == "sliding_attention":
        return fields.maybe_integer("sliding_window")
    return fields.maybe_integer("attention_chunk_size") if layer_type == "chunked_attention" else None


def softmax(
    fields: Fields,
    layer_type: str,
    *,
    qkv_bias: bool | None = None,
    out_bias: bool | None = None,
    qk_norm: QkNorm = "none",
    gate: bool = False,
    sinks: bool = False,
) -> Mixer:
    """Separate q, k, v and o projections. Biases: None = what the config's ``attention_bias`` says."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    width, groups = head_width(fields), key_heads(fields, heads)
    written = fields.flag("attention_bias")
    bias = written if qkv_bias is None else qkv_bias
    tensors: Tensors = (
        *linear("self_attn.q_proj", heads * width * (2 if gate else 1), hidden, bias=bias),
        *linear("self_attn.k_proj", groups * width, hidden, bias=bias),
        *linear("self_attn.v_proj", groups * width, hidden, bias=bias),
        *linear("self_attn.o_proj", hidden, heads * width, bias=written if out_bias is None else out_bias),
    )
    if sinks:
        tensors = (*parameter("self_attn.sinks", heads), *tensors)
    if qk_norm != "none":
        wide = (heads * width, groups * width) if qk_norm == "all" else (width, width)
        tensors += (*norm("self_attn.q_norm", wide[0]), *norm("self_attn.k_norm", wide[1]))
    shape = AttentionShape(
        kind="softmax",
        heads=heads,
        kv_heads=groups,
        head_dim=width,
        v_head_dim=width,
        window=window_of(fields, layer_type),
        qk_norm=qk_norm != "none",
        bias=bias,
        softcap=fields.number("attn_logit_softcapping"),
        sinks=sinks,
        gated=gate,
    )
    return Mixer(shape, tensors)


def fused_softmax(fields: Fields, layer_type: str) -> Mixer:
    """One matrix for q, k and v (Phi-3)."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    width, groups = head_width(fields), key_heads(fields, heads)
    tensors = (
        *linear("self_attn.o_proj", hidden, heads * width),
        *linear("self_attn.qkv_proj", (heads + 2 * groups) * width, hidden),
    )
    window = window_of(fields, layer_type)
    return Mixer(AttentionShape("softmax", heads, groups, width, width, window=window, fused=True), tensors)


def latent(fields: Fields, _layer_type: str) -> Mixer:
    """Multi-head latent attention: keys and values are expanded from a narrow state (DeepSeek-V2, V3, Mistral 4)."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    plain, rotated = fields.integer("qk_nope_head_dim", least=0), fields.integer("qk_rope_head_dim")
    value, kv_rank, q_rank = fields.integer("v_head_dim"), fields.integer("kv_lora_rank"), fields.maybe_integer("q_lora_rank")
    bias, width = fields.flag("attention_bias"), plain + rotated
    if q_rank is None:
        query: Tensors = linear("self_attn.q_proj", heads * width, hidden)
    else:
        query = (
            *linear("self_attn.q_a_proj", q_rank, hidden, bias=bias),
            *norm("self_attn.q_a_layernorm", q_rank),
            *linear("self_attn.q_b_proj", heads * width, q_rank),
        )
    tensors = (
        *query,
        *linear("self_attn.kv_a_proj_with_mqa", kv_rank + rotated, hidden, bias=bias),
        *norm("self_attn.kv_a_layernorm", kv_rank),
        *linear("self_attn.kv_b_proj", heads * (plain + value), kv_rank),
        *linear("self_attn.o_proj", hidden, heads * value, bias=bias),
    )
    shape = AttentionShape("mla", heads, heads, width, value, bias=bias, q_rank=q_rank, kv_rank=kv_rank, rope_dim=rotated)
    return Mixer(shape, tensors)


def delta(fields: Fields, *, joined: bool) -> Mixer:
    """Gated delta rule with a short convolution. ``joined``: q, k, v, z (and b, a) share a matrix (Qwen3-Next)."""
    hidden = fields.integer("hidden_size")
    key_count, value_count = fields.integer("linear_num_key_heads"), fields.integer("linear_num_value_heads")
    key, value = fields.integer("linear_key_head_dim"), fields.integer("linear_value_head_dim")
    kernel = fields.integer("linear_conv_kernel_dim")
    if value_count % key_count:
        raise fields.fault("linear_num_value_heads", f"{value_count} is not a multiple of linear_num_key_heads {key_count}")
    mixed, values = 2 * key_count * key + value_count * value, value_count * value
    prefix = "linear_attn"
    out: Tensors = (*norm(f"{prefix}.norm", value), *linear(f"{prefix}.out_proj", hidden, values))
    wide: Tensors = (*linear(f"{prefix}.in_proj_qkvz", mixed + values, hidden), *linear(f"{prefix}.in_proj_ba", 2 * value_count, hidden))
    split: Tensors = (
        *linear(f"{prefix}.in_proj_qkv", mixed, hidden),
        *linear(f"{prefix}.in_proj_z", values, hidden),
        *linear(f"{prefix}.in_proj_b", value_count, hidden),
        *linear(f"{prefix}.in_proj_a", value_count, hidden),
    )
    tensors = (
        *parameter(f"{prefix}.dt_bias", value_count),
        *parameter(f"{prefix}.A_log", value_count),
        *parameter(f"{prefix}.conv1d.weight", mixed, 1, kernel, kind="conv"),
        *((*wide, *out) if joined else (*out, *split)),
    )
    return Mixer(AttentionShape("linear", value_count, key_count, key, value, gated=True, fused=joined, conv_width=kernel), tensors)
