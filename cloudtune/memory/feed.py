"""Feed-forward parts: gated, plain, fused, and mixtures of experts with dropless grouped products. Sizes only."""

from __future__ import annotations

from cloudtune.memory.autograd import Leaf, Node, Run, Saved, Value
from cloudtune.memory.context import Context
from cloudtune.memory.inventory import Layer
from cloudtune.memory.lora import apply
from cloudtune.memory.ops import (
    Grads,
    activation,
    add,
    cast,
    linear,
    lowered,
    multiply,
    narrow,
    scale,
    shift,
    softmax,
    split,
    tanh,
    tracked,
)
from cloudtune.models.shape import MlpShape


def feed(ctx: Context, layer: Layer, value: Value) -> Value:
    """The feed-forward part of ``layer``."""
    mlp = layer.block.mlp
    if mlp.kind == "moe":
        return _mixture(ctx, layer, mlp, value)
    if mlp.kind == "plain":
        return _plain(ctx, layer, value)
    return _gated(ctx, layer, ctx.mlp_prefix(layer), value, fused=mlp.fused)


def _gated(ctx: Context, layer: Layer, prefix: str, value: Value, *, fused: bool) -> Value:
    """down(act(gate(x)) · up(x))."""
    run, casting = ctx.run, ctx.casting
    if fused:
        return fused_gated(ctx, layer, prefix, value)
    gate, up, down = (layer.linear[f"{prefix}.{name}"] for name in ("gate_proj", "up_proj", "down_proj"))
    return apply(
        run,
        down,
        multiply(
            run,
            activation(run, apply(run, gate, value, casting), layer.block.mlp.activation),
            apply(run, up, value, casting),
            "gated activation",
        ),
        casting,
    )


def fused_gated(ctx: Context, layer: Layer, prefix: str, value: Value) -> Value:
    """One matrix for gate and up, halved by views."""
    run, casting = ctx.run, ctx.casting
    first, last = layer.pair(prefix, (("gate_up_proj", "down_proj"), ("Wi", "Wo")))
    both = apply(run, first, value, casting)
    gate, up = split(run, both, (both.count // 2, both.count // 2))
    product = multiply(run, up, activation(run, gate, layer.block.mlp.activation), "gated activation")
    del gate, up, both
    return apply(run, last, product, casting)


def _plain(ctx: Context, layer: Layer, value: Value) -> Value:
    """second(act(first(x)))."""
    first, last = layer.pair("", (("mlp.fc1", "mlp.fc2"), ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), ("ffn.lin1", "ffn.lin2")))
    return apply(ctx.run, last, activation(ctx.run, apply(ctx.run, first, value, ctx.casting), layer.block.mlp.activation), ctx.casting)


def _mixture(ctx: Context, layer: Layer, mlp: MlpShape, value: Value) -> Value:
    """Router, tokens copied once per chosen expert, two grouped products over the fused experts, weighted sum.

    Follows transformers 5.23 integrations/moe.py (grouped_mm_experts_forward): all experts are used, none is dropped.
    """
    run, tokens, hidden, chosen = ctx.run, ctx.tokens, ctx.shape.hidden_size, mlp.experts_per_token
    shares, held = _route(ctx, layer, mlp, value)
    order = run.new(tokens * chosen, 8, "order by expert")
    gathered = _gather(run, value, tokens * chosen * hidden)
    both = grouped(ctx, layer, "gate_up_proj", gathered, tokens * chosen * 2 * mlp.expert_width)
    product = _clamped_gate(run, both) if ctx.shape.model_type == "gpt_oss" else _gate(run, both, mlp)
    del both
    product = grouped(ctx, layer, "down_proj", product, tokens * chosen * hidden)
    weighted = multiply(run, product, shares, "weighted experts")
    weighted = _gather(run, weighted, weighted.count)
    mixed = _sum_of_experts(run, weighted, tokens * hidden)
    del gathered, product, weighted, shares, held, order
    if mlp.shared_width and (prefix := layer.shared_expert()):
        mixed = add(run, mixed, _gated(ctx, layer, prefix, value, fused=False), "experts + shared expert")
    return mixed


def _route(ctx: Context, layer: Layer, mlp: MlpShape, value: Value) -> tuple[Value, tuple[Value, ...]]:
    """Shares of the chosen experts, and what the router's frame holds."""
    run, tokens, chosen = ctx.run, ctx.tokens, mlp.experts_per_token
    weight = layer.experts.get("weight")
    if weight is None:
        logits = run.new(tokens * mlp.experts, value.word, "router logits")
    else:
        logits = linear(run, value, weight, (mlp.experts, ctx.shape.hidden_size))
    probabilities = softmax(run, logits, 4, "router probabilities")
    shares = cast(run, narrow(run, probabilities, tokens * chosen), value.word, "expert shares")
    index = run.new(tokens * chosen, 8, "chosen experts")
    return shares, (index, logits)


def _clamped_gate(run: Run, both: Value) -> Value:
    """gpt-oss: (up + 1) · gate · sigmoid(α · gate), both clamped first."""
    gate = activation(run, narrow(run, both, both.count // 2), name="clamped gate")
    up = activation(run, narrow(run, both, both.count // 2), name="clamped up")
    share = tanh(run, scale(run, gate, "scaled gate"), "sigmoid")
    return multiply(run, shift(run, up), multiply(run, gate, share, "gated"), "gated activation")


def _gate(run: Run, both: Value, mlp: MlpShape) -> Value:
    gate, up = split(run, both, (both.count // 2, both.count // 2))
    return multiply(run, activation(run, gate, mlp.activation), up, "gated activation")


def _gather(run: Run, value: Value, count: int) -> Value:
    """value[index]: a copy; the gradient is scattered into zeros."""
    saved = run.save(None) if tracked(run, value) else ()
    out = run.new(count, value.word, "tokens by expert")
    if tracked(run, value):
        run.link(out, (value.node,), _gather_back, saved, (value.count, value.word))
    return out


def _gather_back(run: Run, _saved: Saved, _grad: Value, node: Node) -> Grads:
    count, word = node.extra
    return (run.new(count, word, "gradient by token"),)


def _sum_of_experts(run: Run, value: Value, count: int) -> Value:
    """Sum over the chosen experts of a token; the gradient is an expanded view."""
    out = run.new(count, value.word, "sum of experts")
    if tracked(run, value):
        run.link(out, (value.node,), _view_back)
    return out


def _view_back(_run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    return (grad.view(),)


def grouped(ctx: Context, layer: Layer, name: str, value: Value, count: int) -> Value:
    """One product per expert in a single kernel; under autocast the weight is brought to 16 bit first."""
    run = ctx.run
    weight = layer.experts[name]
    value = lowered(run, value)
    whole = _expert_weight(ctx, layer, name, value.word)
    run.matrix_product()
    needed = run.grad_enabled and (value.node is not None or whole.node is not None)
    saved = run.save(value if whole.node is not None else None, whole) if needed else ()
    out = run.new(count, value.word, weight.name)
    if needed:
        run.link(out, (value.node, whole.node), _grouped_back, saved, (value.count, whole.count, whole.word))
    return out


def _expert_weight(ctx: Context, layer: Layer, name: str, word: int) -> Value:
    """The experts' weights as the product sees them: with an adapter a whole new tensor W + B·A (peft ParamWrapper)."""
    run = ctx.run
    weight = layer.experts[name]
    value = Value(None, weight.count, weight.word, weight.leaf)
    adapter = layer.expert_adapters.get(name)
    if adapter is not None:
        kind, run.tape.kind = run.tape.kind, "adapted experts"
        down = cast(run, Value(None, adapter.down.count, adapter.down.word, adapter.down.leaf), weight.word, "expert adapter")
        up = cast(run, Value(None, adapter.up.count, adapter.up.word, adapter.up.leaf), weight.word, "expert adapter")
        saved = run.save(down, up) if tracked(run, down, up) else ()
        out = run.new(weight.count, weight.word, f"{weight.name} + B·A")
        if tracked(run, down, up):
            run.link(out, (down.node, up.node), _fold_back, saved, (down.count, up.count))
        run.tape.kind = kind
        value = out
    return cast(run, value, word, f"16-bit copy of {weight.name}")


def _fold_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    down, up = node.extra
    return run.new(down, grad.word, "expert adapter gradient"), run.new(up, grad.word, "expert adapter gradient")


def _grouped_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    count, whole, word = node.extra
    of_value = run.new(count, grad.word, "input gradient") if node.parents[0] is not None else None
    if node.parents[1] is None:
        return of_value, None
    make = run.kept if isinstance(node.parents[1], Leaf) else run.new
    return of_value, make(whole, word, "gradient of experts")
