"""The attention call that all decoders and encoders make: heads, mask, and the kernel that torch will pick. Sizes only."""

from __future__ import annotations

from cloudtune.memory.attention import Heads, Kernel, choose, eager, repeat_heads, sdpa
from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context
from cloudtune.models.shape import AttentionShape


def heads_of(ctx: Context, shape: AttentionShape) -> Heads:
    """The attention call of this batch."""
    chance = ctx.shape.attention_dropout if ctx.training else 0.0
    return Heads(
        ctx.batch,
        ctx.length,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.v_head_dim,
        mask=ctx.mask,
        dropout=chance,
        softcap=shape.softcap is not None,
        sinks=shape.sinks,
        causal=ctx.shape.family == "decoder",
    )


def heads_first(ctx: Context, heads: Heads) -> bool:
    """Whether the values' gradient comes back with the heads before the tokens: from products and from summed groups."""
    behaviour, run = ctx.behaviour, ctx.run
    if behaviour.attention == "eager" or heads.softcap or heads.sinks:
        return True
    if behaviour.attention == "flash_attention_2" or not run.cuda or heads.keys == heads.queries:
        return False
    if behaviour.expand_kv or heads.mask is not None or heads.width > 256:
        return True
    word = run.autocast or behaviour.compute_word
    return choose(ctx.capability, word, heads, grouped=True, masked=False, flash=behaviour.flash_built) == "math"


def mix(ctx: Context, query: Value, key: Value, values: Value, heads: Heads) -> tuple[Value, Value | None]:
    """Attention through the interface that transformers picks by name: (output, weights).

    Only the plain formula has weights. Callers hold them as long as the model's code does: to the end of the layer.
    """
    behaviour, run = ctx.behaviour, ctx.run
    if behaviour.attention == "eager" or heads.softcap or heads.sinks:
        out, weights = eager(run, query, key, values, heads)
        return out, weights if behaviour.weights_returned else None
    if behaviour.attention == "flash_attention_2":
        return sdpa(run, query, key, values, heads, "flash"), None
    grouped = heads.keys != heads.queries
    if grouped and (behaviour.expand_kv or heads.mask is not None or heads.width > 256):
        key, values = repeat_heads(run, key, heads), repeat_heads(run, values, heads)
        grouped = False
    kernel: Kernel
    if not run.cuda:
        kernel = "cpu"
    elif behaviour.sdpa_kernel != "auto":
        kernel = behaviour.sdpa_kernel
    else:
        kernel = choose(
            ctx.capability, run.autocast or query.word, heads, grouped=grouped, masked=heads.mask is not None, flash=behaviour.flash_built
        )
    return sdpa(run, query, key, values, heads, kernel), None
