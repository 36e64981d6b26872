"""RMSNorm in the forms that transformers' model files have, and LayerNorm. Sizes only."""

from __future__ import annotations

from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context
from cloudtune.memory.ops import Weight, cast, layer_norm, multiply, rsqrt, square_mean

# weight inside the fp32 part, and (1 + weight): models/gemma2/modeling_gemma2.py
WIDE = ("gemma",)
# (weight · x).to(type): models/olmo2/modeling_olmo2.py
LATE = ("olmo2",)


def norm(ctx: Context, weights: tuple[Weight, Weight | None], value: Value, width: int) -> Value:
    """Norm over the last ``width`` numbers."""
    weight, bias = weights
    rows = value.count // width
    if ctx.shape.norm == "layernorm":
        if ctx.casting.autocast and ctx.run.cuda:  # layer_norm is on CUDA's fp32 list of autocast, not on the CPU's
            value = cast(ctx.run, value, 4, "autocast norm input")
        return layer_norm(ctx.run, value, weight, bias, rows)
    return _rms(ctx, weight, value, rows)


def _rms(ctx: Context, weight: Weight, value: Value, rows: int) -> Value:
    run, word = ctx.run, value.word
    factor = Value(None, weight.count, weight.word, weight.leaf)
    value = cast(run, value, 4, "norm input in fp32")
    variance = square_mean(run, value, rows)
    value = multiply(run, value, rsqrt(run, variance), "normed")
    if ctx.shape.model_type.startswith(WIDE):
        wide = cast(run, factor, 4, "norm weight in fp32")
        return cast(run, multiply(run, value, wide, "scaled norm"), word, "norm output")
    if ctx.shape.model_type.startswith(LATE):
        return cast(run, multiply(run, factor, value, "scaled norm"), word, "norm output")
    return multiply(run, factor, cast(run, value, word, "normed in 16 bit"), "norm output")
