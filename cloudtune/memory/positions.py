"""What a model makes once per forward pass for all its layers: attention masks and rotary angles. Sizes only.

Sources: transformers 5.23 masking_utils.py (sdpa_mask, eager_mask) and models/llama/modeling_llama.py (LlamaRotaryEmbedding).
"""

from __future__ import annotations

from cloudtune.memory.autograd import Value
from cloudtune.memory.context import Context


def attention_mask(ctx: Context, word: int) -> Value:
    """A mask of truth values for the fused kernels; for the plain formula one of numbers, made out of it.

    Without padding the truth values are the same for all sequences: one matrix, seen by all of them.
    """
    run = ctx.run
    square = ctx.length * ctx.length
    padded = ctx.behaviour.padding_mask
    truth = run.new(square * (ctx.batch if padded else 1), 1, "attention mask")
    if ctx.behaviour.attention != "eager":
        return truth
    return run.new(ctx.batch * square, word, "attention mask")


def rotary(ctx: Context, width: int, word: int) -> tuple[Value, Value]:
    """cos and sin of ``width`` angles per position, reckoned in fp32."""
    run = ctx.run
    positions = run.new(ctx.length, 4, "positions")
    if ctx.behaviour.rotary_product:
        run.matrix_product()
    half = run.new(ctx.length * (width // 2), 4, "angles")
    angles = run.new(ctx.length * width, 4, "angles twice")
    wide = [_scaled(ctx, angles, name) for name in ("cos", "sin")]
    if word == 4:
        return wide[0], wide[1]
    cos, sin = (run.new(value.count, word, name) for value, name in zip(wide, ("cos", "sin"), strict=True))
    del positions, half, angles, wide
    return cos, sin


def _scaled(ctx: Context, angles: Value, name: str) -> Value:
    raw = ctx.run.like(angles, name)
    out = ctx.run.like(raw, name)
    del raw
    return out
