"""Head and loss: full logits as transformers' loss functions make them, or cross-entropy in chunks. Sizes only.

Sources: transformers 5.23 loss/loss_utils.py (ForCausalLMLoss upcasts all logits); ATen LossNLL and SoftMax kernels.
"""

from __future__ import annotations

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.context import Context
from cloudtune.memory.lora import LinearLayer, plain_linear
from cloudtune.memory.ops import Grads, cast, tracked

KIND = "logits and loss"


def full_loss(ctx: Context, head: LinearLayer, value: Value) -> tuple[Value, Value]:
    """(loss, logits): all logits at once, in fp32 for the loss."""
    run = ctx.run
    kind, run.tape.kind = run.tape.kind, KIND
    logits = plain_linear(run, head, value, ctx.casting)
    if ctx.shape.final_softcap is not None:
        logits = _capped(run, logits)
    loss = _cross_entropy(run, cast(run, logits, 4, "logits in fp32"), ctx.tokens)
    run.tape.kind = kind
    return loss, logits


def _capped(run: Run, logits: Value) -> Value:
    from cloudtune.memory.ops import scale, tanh

    logits = scale(run, logits, "logits / cap")
    logits = tanh(run, logits, "tanh of logits")
    return scale(run, logits, "capped logits")


def _cross_entropy(run: Run, logits: Value, tokens: int) -> Value:
    """log_softmax keeps its result; the negative log-likelihood keeps it too."""
    labels = run.new(tokens, 8, "shifted labels")
    out = run.like(logits, "log-softmax of logits")
    if tracked(run, logits):
        run.link(out, (logits.node,), _log_softmax_back, run.save(out.view()))
    loss = run.new(1, 4, "loss")
    if out.node is not None:
        run.link(loss, (out.node,), _likelihood_back, run.save(out.view(), labels))
    return loss


def _likelihood_back(run: Run, saved: Saved, _grad: Value, _node: Node) -> Grads:
    kind, run.tape.kind = run.tape.kind, KIND
    out = run.like(saved[0], "gradient of log-softmax")
    run.tape.kind = kind
    return (out,)


def _log_softmax_back(run: Run, saved: Saved, grad: Value, _node: Node) -> Grads:
    kind, run.tape.kind = run.tape.kind, KIND
    out = run.like(grad, "gradient of fp32 logits")
    run.tape.kind = kind
    return (out,)
