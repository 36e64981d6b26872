"""Head and loss: full logits as transformers' loss functions make them, or cross-entropy in chunks. Sizes only.

Sources: transformers 5.23 loss/loss_utils.py (ForCausalLMLoss upcasts all logits); ATen LossNLL and SoftMax kernels.
"""

from __future__ import annotations

from functools import partial

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.context import Context
from cloudtune.memory.lora import LinearLayer, plain_linear
from cloudtune.memory.ops import Grads, add, cast, copy, narrow, scale, tanh, tracked

KIND = "logits and loss"


def full_loss(ctx: Context, head: LinearLayer, states: list[Value]) -> tuple[Value, Value]:
    """(loss, logits): all logits at once, in fp32 for the loss. Hidden states stay in ``states`` when the model holds them."""
    run = ctx.run
    kind, run.tape.kind = run.tape.kind, KIND
    logits = plain_linear(run, head, states[0], ctx.casting)
    if not ctx.behaviour.loss_inside:
        states.clear()
    if ctx.shape.final_softcap is not None:
        logits = _capped(run, logits)
    if ctx.behaviour.shifted_logits:
        logits = cast(run, logits, 4, "logits in fp32")
        shifted = copy(run, narrow(run, logits, logits.count - ctx.batch * ctx.shape.vocab_size), "shifted logits")
        loss = _cross_entropy(run, shifted, ctx.tokens - ctx.batch)
    else:
        loss = _cross_entropy(run, cast(run, logits, 4, "logits in fp32"), ctx.tokens)
    run.tape.kind = kind
    return loss, logits


def chunked_loss(ctx: Context, head: LinearLayer, value: Value) -> Value:
    """Cross-entropy over a few tokens at a time; each chunk is checkpointed, so only one chunk of logits ever exists.

    The trainer first copies the learned tokens' states together; all tokens are reckoned as learned.
    """
    run = ctx.run
    kind, run.tape.kind = run.tape.kind, KIND
    states = copy_learned(run, value)
    width = ctx.shape.hidden_size
    total: Value | None = None
    for start in range(0, ctx.tokens, ctx.behaviour.chunk_tokens):
        tokens = min(ctx.behaviour.chunk_tokens, ctx.tokens - start)
        piece = narrow(run, states, tokens * width)
        part = run.checkpoint(partial(_chunk, ctx, head, tokens), piece, reentrant=False)
        total = part if total is None else add(run, total, part, "loss")
    run.tape.kind = kind
    assert total is not None  # noqa: S101
    return total


def copy_learned(run: Run, value: Value) -> Value:
    """hidden[learned]: a copy; its gradient is scattered into zeros of full size."""
    saved = run.save(None) if tracked(run, value) else ()
    out = run.like(value, "learned states")
    if tracked(run, value):
        run.link(out, (value.node,), _scatter, saved)
    return out


def _scatter(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    return (run.like(grad, "gradient of all states"),)


def _chunk(ctx: Context, head: LinearLayer, tokens: int, states: Value) -> Value:
    logits = cast(ctx.run, plain_linear(ctx.run, head, states, ctx.casting), 4, "chunk of logits in fp32")
    if ctx.shape.final_softcap is not None:
        logits = _capped(ctx.run, logits)
    return _cross_entropy(ctx.run, logits, tokens)


def classifier_loss(ctx: Context, value: Value) -> tuple[Value, Value]:
    """The first token's state through pooler and classifier: all of it small, but its gradient is full-size zeros."""
    run = ctx.run
    first = narrow(run, value, ctx.batch * ctx.shape.hidden_size)
    logits = narrow(run, scale(run, first, "pooled"), ctx.batch * 2)
    return _cross_entropy(run, cast(run, logits, 4, "class scores"), ctx.batch), logits


def _capped(run: Run, logits: Value) -> Value:
    logits = scale(run, logits, "logits / cap")
    logits = tanh(run, logits, "tanh of logits")
    return scale(run, logits, "capped logits")


def _cross_entropy(run: Run, logits: Value, tokens: int) -> Value:
    """log_softmax keeps its result; the negative log-likelihood keeps it too."""
    labels = run.new(tokens, 8, "shifted labels")
    out = run.like(logits, "log-softmax of logits")
    if tracked(run, logits):
        saved = run.save(out.view(), logits) if run.softmax_keeps_input else run.save(out.view())
        run.link(out, (logits.node,), _log_softmax_back, saved)
    loss = run.new(1, 4, "loss")
    if out.node is not None:
        run.link(loss, (out.node,), _likelihood_back, run.save(out.view(), labels))
    return loss


def _likelihood_back(run: Run, saved: Saved, _grad: Value, _node: Node) -> Grads:
    kind, run.tape.kind = run.tape.kind, KIND
    out = run.like(saved[0], "gradient of log-softmax")
    run.tape.kind = kind
    return (out,)


def _log_softmax_back(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    kind, run.tape.kind = run.tape.kind, KIND
    out = run.like(grad, "gradient of fp32 logits")
    run.tape.kind = kind
    return (out,)
