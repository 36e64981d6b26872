"""Feed-forward parts: gated, plain, fused, and mixtures of experts with dropless grouped products. Sizes only."""

from __future__ import annotations

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.context import Context
from cloudtune.memory.inventory import Layer
from cloudtune.memory.lora import apply
from cloudtune.memory.ops import Grads, Weight, activation, add, cast, gradient_of, multiply, narrow, softmax, tracked
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
        multiply(run, activation(run, apply(run, gate, value, casting)), apply(run, up, value, casting), "gated activation"),
        casting,
    )


def fused_gated(ctx: Context, layer: Layer, prefix: str, value: Value) -> Value:
    """One matrix for gate and up, halved by views."""
    run, casting = ctx.run, ctx.casting
    first, last = layer.pair(prefix, (("gate_up_proj", "down_proj"), ("Wi", "Wo")))
    both = apply(run, first, value, casting)
    gate, up = narrow(run, both, both.count // 2), narrow(run, both, both.count // 2)
    product = multiply(run, up, activation(run, gate), "gated activation")
    del gate, up, both
    return apply(run, last, product, casting)


def _plain(ctx: Context, layer: Layer, value: Value) -> Value:
    """second(act(first(x)))."""
    first, last = layer.pair("", (("mlp.fc1", "mlp.fc2"), ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), ("ffn.lin1", "ffn.lin2")))
    return apply(ctx.run, last, activation(ctx.run, apply(ctx.run, first, value, ctx.casting)), ctx.casting)


def _mixture(ctx: Context, layer: Layer, mlp: MlpShape, value: Value) -> Value:
    """Router, tokens copied once per chosen expert, two grouped products over the fused experts, weighted sum."""
    run = ctx.run
    tokens, hidden, chosen = ctx.tokens, ctx.shape.hidden_size, mlp.experts_per_token
    router = run.new(tokens * mlp.experts, value.word, "router logits")
    weights = softmax(run, router, 4, "router weights")
    del router
    index = run.new(tokens * chosen, 8, "chosen experts")
    order = run.new(tokens * chosen, 8, "order by expert")
    gathered = _gather(run, value, tokens * chosen * hidden)
    both = grouped(ctx, layer.experts["gate_up_proj"], gathered, tokens * chosen * 2 * mlp.expert_width)
    del gathered
    gate, up = narrow(run, both, both.count // 2), narrow(run, both, both.count // 2)
    product = multiply(run, activation(run, gate), up, "gated activation")
    del gate, up, both
    out = grouped(ctx, layer.experts["down_proj"], product, tokens * chosen * hidden)
    del product
    share = run.new(tokens * chosen, value.word, "expert shares")
    weighted = multiply(run, out, share, "weighted experts")
    del out, share, index, order, weights
    mixed = _gather(run, weighted, tokens * hidden)
    del weighted
    if mlp.shared_width and (prefix := layer.shared_expert()):
        mixed = add(run, mixed, _gated(ctx, layer, prefix, value, fused=False), "experts + shared expert")
    return mixed


def _gather(run: Run, value: Value, count: int) -> Value:
    out = run.new(count, value.word, "tokens by expert")
    if tracked(run, value):
        run.link(out, (value.node,), _gather_back, run.save(None), (value.count, value.word))
    return out


def _gather_back(run: Run, _saved: Saved, _grad: Value, node: Node) -> Grads:
    count, word = node.extra
    return (run.new(count, word, "gradient by token"),)


def grouped(ctx: Context, weight: Weight, value: Value, count: int) -> Value:
    """One product per expert in a single kernel; under autocast the weight is brought to 16 bit first."""
    run = ctx.run
    if ctx.casting.autocast:
        value = cast(run, value, ctx.casting.autocast, "autocast input")
    lowered = run.new(weight.count, value.word, f"16-bit copy of {weight.name}") if weight.word != value.word else None
    run.matrix_product()
    saved = ()
    if run.grad_enabled and (value.node is not None or weight.leaf is not None):
        saved = run.save(value if weight.leaf is not None else None, lowered)
    out = run.new(count, value.word, weight.name)
    if run.grad_enabled and (value.node is not None or weight.leaf is not None):
        run.link(out, (value.node, weight.leaf), _grouped_back, saved, (value.count, weight))
    return out


def _grouped_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    count, weight = node.extra
    of_value = run.new(count, grad.word, "input gradient") if node.parents[0] is not None else None
    of_weight = gradient_of(run, weight, weight.word) if node.parents[1] is not None else None
    return of_value, of_weight
