"""Linear layers as peft and bitsandbytes run them: plain, 4-bit, 8-bit, with or without an adapter. Sizes only.

Sources: bitsandbytes 0.50 autograd/_functions.py (MatMul4Bit, MatMul8bitLt), nn/modules.py (Linear4bit, Linear8bitLt);
peft 0.21 tuners/lora/layer.py (Linear.forward) and tuners/lora/bnb.py (Linear4bit.forward, Linear8bitLt.forward).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.ops import Grads, Weight, add, cast, copy, dropout, linear, multiply, scale, tracked

FEW_ROWS = 4  # up to here bitsandbytes multiplies without unpacking the weight, on every GPU


@dataclass(frozen=True, slots=True)
class Adapter:
    """Two trained matrices (r, in) and (out, r), and DoRA's magnitude when there is one."""

    down: Weight
    up: Weight
    rank: int
    dropout: float = 0.0
    magnitude: Weight | None = None


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One nn.Linear as it runs. ``storage``: how its weight is kept."""

    name: str
    out_features: int
    in_features: int
    weight: Weight
    bias: Weight | None = None
    storage: Literal["plain", "4bit", "8bit"] = "plain"
    nested: bool = False
    adapter: Adapter | None = None

    @property
    def features(self) -> tuple[int, int]:
        return self.out_features, self.in_features


@dataclass(frozen=True, slots=True)
class Casting:
    """Types of the run: the 16-bit word of autocast (0 = no autocast), and that of quantised products."""

    autocast: int
    compute_word: int


def apply(run: Run, layer: LinearLayer, value: Value, casting: Casting) -> Value:
    """layer(value)."""
    if layer.adapter is None:
        return _base(run, layer, value, casting)
    if layer.storage == "plain":
        return _adapted_plain(run, layer, layer.adapter, value, casting)
    return _adapted_quantised(run, layer, layer.adapter, value, casting)


def plain_linear(run: Run, layer: LinearLayer, value: Value, casting: Casting) -> Value:
    """nn.Linear; under autocast input and weight are brought to 16 bit first."""
    if not casting.autocast:
        return linear(run, value, layer.weight, layer.features, layer.bias)
    lowered = cast(run, value, casting.autocast, "autocast input")
    return _autocast_linear(run, lowered, layer.weight, layer.features, layer.bias, casting)


def _autocast_linear(run: Run, value: Value, weight: Weight, features: tuple[int, int], bias: Weight | None, casting: Casting) -> Value:
    if weight.word == casting.autocast:
        return linear(run, value, weight, features, bias)
    lowered = _autocast_weight(run, weight, casting)
    scratch = run.biased_product() if bias is not None else run.matrix_product()
    leaf = weight.leaf
    saved = ()
    if tracked(run, value, lowered):
        saved = run.save(value if lowered.node is not None else None, lowered if value.node is not None else None)
    out = run.new(value.count // features[1] * features[0], value.word, weight.name)
    del scratch
    if tracked(run, value, lowered):
        bias_leaf = bias.leaf if bias is not None else None
        run.link(out, (bias_leaf, value.node, lowered.node), _autocast_back, saved, (value.count, weight, leaf, bias))
    return out


def _autocast_weight(run: Run, weight: Weight, casting: Casting) -> Value:
    """A 16-bit copy of an fp32 weight; that of a trained one is kept until autocast ends."""
    if weight.leaf is None:
        return run.new(weight.count, casting.autocast, f"16-bit copy of {weight.name}")
    if weight.name not in run.casts:
        whole = Value(None, weight.count, weight.word, weight.leaf)
        kind, run.tape.kind = run.tape.kind, "autocast copies"
        run.casts[weight.name] = cast(run, whole, casting.autocast, f"16-bit copy of {weight.name}")
        run.tape.kind = kind
    return run.casts[weight.name]


def _autocast_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    count, weight, leaf, bias = node.extra
    run.matrix_product()
    name = f"16-bit gradient of {weight.name}"
    of_weight = run.new(weight.count, grad.word, name) if leaf is not None and bias is None else None
    of_value = run.new(count, grad.word, "input gradient") if node.parents[1] is not None else None
    if leaf is not None and of_weight is None:
        of_weight = run.new(weight.count, grad.word, name)
    of_bias = run.new(bias.count, bias.word, f"gradient of {bias.name}") if node.parents[0] is not None else None
    return of_bias, of_value, of_weight


def _base(run: Run, layer: LinearLayer, value: Value, casting: Casting) -> Value:
    if layer.storage == "plain":
        return plain_linear(run, layer, value, casting)
    if layer.storage == "8bit":
        return _eight_bit(run, layer, value)
    lowered = cast(run, value, casting.compute_word, "quantised layer's input")
    return cast(run, _four_bit(run, layer, lowered), value.word, "quantised layer's output")


# ---- 4 bit -------------------------------------------------------------------------------------------------------------


def _unpack(run: Run, layer: LinearLayer, word: int) -> Value:
    """The whole weight in 16 bit; with double quantisation its fp32 scales are made first."""
    kind, run.tape.kind = run.tape.kind, "unpacked weights"
    scales = run.new(layer.weight.count // 64, 4, "unpacked scales") if layer.nested else None
    whole = run.new(layer.weight.count, word, f"unpacked {layer.name}")
    del scales
    run.tape.kind = kind
    return whole


def _four_bit(run: Run, layer: LinearLayer, value: Value) -> Value:
    rows = value.count // layer.in_features
    out_count = rows * layer.out_features
    if rows <= FEW_ROWS or not run.cuda:
        out = run.new(out_count, value.word, layer.name)
    else:
        whole = _unpack(run, layer, value.word)
        scratch = run.biased_product() if layer.bias is not None else run.matrix_product()
        out = run.new(out_count, value.word, layer.name)
        del whole, scratch
    if tracked(run, value):
        # the packed weight hangs on ctx, not on save_for_backward: a recomputation does not wait for it
        run.link(out, (value.node,), _four_bit_back, (), (layer, value.count, value.word))
    return out


def _four_bit_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    layer, count, word = node.extra
    whole = _unpack(run, layer, word)
    run.matrix_product()
    out = run.new(count, grad.word, "input gradient")
    del whole
    return (out,)


# ---- 8 bit -------------------------------------------------------------------------------------------------------------


def _eight_bit(run: Run, layer: LinearLayer, value: Value) -> Value:
    """int8 product: float16 copy unless it is float16, int8 input, int32 result, float16 result, output in the input's type.

    The input itself stays on ctx, whatever checkpointing does; outlier columns depend on the data and are left out.
    """
    rows = value.count // layer.in_features
    is_half = value.word == 2 and run.half
    half = None if is_half else run.new(value.count, 2, "float16 input")
    quantised = run.new(value.count, 1, "int8 input")
    statistics = run.new(rows, 4, "row scales")
    del half
    product = run.new(rows * layer.out_features, 4, "int32 product")
    narrow = None if is_half else run.new(rows * layer.out_features, 2, "float16 product")
    out = run.new(rows * layer.out_features, value.word, layer.name)
    del product, narrow, quantised, statistics
    if tracked(run, value):
        run.link(out, (value.node,), _eight_bit_back, (), (layer, value))
    return out


def _eight_bit_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    """The weight is unpacked in the type of the input."""
    layer, value = node.extra
    count, word = value.count, value.word
    node.extra = None
    kind, run.tape.kind = run.tape.kind, "unpacked weights"
    whole = run.new(layer.weight.count, word, f"unpacked {layer.name}")
    run.tape.kind = kind
    run.matrix_product()
    out = run.new(count, grad.word, "input gradient")
    del whole, value
    return (out,)


# ---- adapters ----------------------------------------------------------------------------------------------------------


def _low_rank(run: Run, layer: LinearLayer, adapter: Adapter, value: Value, casting: Casting) -> Value:
    """scaling · B(A(dropout(x)))."""
    narrow = _trained_linear(run, dropout(run, value, adapter.dropout), adapter.down, (adapter.rank, layer.in_features), casting)
    return scale(run, _trained_linear(run, narrow, adapter.up, (layer.out_features, adapter.rank), casting))


def _trained_linear(run: Run, value: Value, weight: Weight, features: tuple[int, int], casting: Casting) -> Value:
    if not casting.autocast:
        return linear(run, value, weight, features)
    return _autocast_linear(run, cast(run, value, casting.autocast, "autocast input"), weight, features, None, casting)


def _adapted_plain(run: Run, layer: LinearLayer, adapter: Adapter, value: Value, casting: Casting) -> Value:
    result = plain_linear(run, layer, value, casting)
    word = result.word
    value = cast(run, value, adapter.down.word, "adapter input")
    if adapter.magnitude is not None:
        result = _dora(run, layer, adapter, value, result, casting)
    else:
        result = add(run, result, _low_rank(run, layer, adapter, value, casting), "adapted output")
    return cast(run, result, word, "adapted output")


def _adapted_quantised(run: Run, layer: LinearLayer, adapter: Adapter, value: Value, casting: Casting) -> Value:
    result = _base(run, layer, value, casting)
    if layer.storage == "4bit":
        result = copy(run, result, "defensive copy")
    word = result.word
    if not casting.autocast:
        value = cast(run, value, adapter.down.word, "adapter input")
    if adapter.magnitude is not None:
        return cast(run, _dora(run, layer, adapter, value, result, casting), word, "adapted output")
    output = cast(run, _low_rank(run, layer, adapter, value, casting), word, "adapter output")
    return add(run, result, output, "adapted output")


def _dora(run: Run, layer: LinearLayer, adapter: Adapter, value: Value, result: Value, casting: Casting) -> Value:
    """Weight-decomposed adapter: the weight's norm needs B·A and, when quantised, the whole weight, without gradients."""
    enabled, run.grad_enabled = run.grad_enabled, False
    whole = _unpack(run, layer, casting.compute_word) if layer.storage != "plain" else None
    product = run.new(layer.weight.count, adapter.up.word, "B·A")
    summed = run.new(layer.weight.count, adapter.up.word, "weight + B·A")
    run.grad_enabled = enabled
    del whole, product, summed
    assert adapter.magnitude is not None  # noqa: S101
    factor = Value(None, layer.out_features, adapter.magnitude.word, adapter.magnitude.leaf)
    narrow = _low_rank(run, layer, adapter, value, casting)
    kept = multiply(run, factor, result, "rescaled base")
    scaled = multiply(run, factor, narrow, "rescaled adapter")
    return add(run, add(run, kept, scaled), result, "adapted output")
