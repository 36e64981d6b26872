"""Attention as transformers runs it on CUDA: rotary positions, the kernels and what each of them keeps and borrows.

Sources: transformers 5.23 models/llama/modeling_llama.py, integrations/sdpa_attention.py; ATen native/transformers
(sdp_utils_cpp.h: choice of kernel; cuda/attention_backward.cu: mem-efficient; flash_attn/flash_api.cpp: flash).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.ops import (
    Grads,
    add,
    cast,
    concatenate,
    copy,
    dropout,
    heads_view,
    lowered,
    matmul,
    multiply,
    narrow,
    negate,
    scale,
    softmax,
    tanh,
    tracked,
    view,
)

Kernel = Literal["flash", "efficient", "math", "cpu"]


@dataclass(frozen=True, slots=True)
class Heads:
    """One attention call: sequences, tokens per sequence, query and key heads, widths of a query/key and a value head."""

    batch: int
    length: int
    queries: int
    keys: int
    width: int
    value_width: int
    mask: Value | None = None
    dropout: float = 0.0
    softcap: bool = False
    sinks: bool = False
    plain_softmax: bool = False
    """Eager softmax in the type of its input (encoders), not explicitly in fp32 (decoders)."""
    causal: bool = True

    @property
    def scores(self) -> int:
        """Entries of the score matrix."""
        return self.batch * self.queries * self.length * self.length

    @property
    def out(self) -> int:
        return self.batch * self.length * self.queries * self.value_width


def rotate(run: Run, value: Value, cos: Value, sin: Value) -> Value:
    """value·cos + rotate_half(value)·sin."""
    return add(run, multiply(run, value, cos, "x·cos"), multiply(run, _rotate_half(run, value), sin, "rotated·sin"), "rotated")


def rotate_part(run: Run, value: Value, cos: Value, sin: Value) -> Value:
    """The rotated part and the rest, put together in a new tensor."""
    rest = narrow(run, value, value.count // 2)
    part = narrow(run, value, value.count)
    return concatenate(run, (rotate(run, part, cos, sin), Value(rest.store, 0, rest.word, rest.node)), "rotated and rest")


def _rotate_half(run: Run, value: Value) -> Value:
    first = narrow(run, value, value.count // 2)
    second = narrow(run, value, value.count - value.count // 2)
    return concatenate(run, (negate(run, second), first), "rotated halves")


def choose(capability: tuple[int, int], word: int, heads: Heads, *, grouped: bool, masked: bool, flash: bool = True) -> Kernel:
    """The kernel that scaled_dot_product_attention takes. ``grouped``: keys still have their own, smaller number of heads.

    ``flash``: whether this build of torch has flash attention.
    """
    widest = max(heads.width, heads.value_width)
    if flash and capability[0] >= 8 and word == 2 and not masked and widest <= 256 and heads.width == heads.value_width:
        return "flash"
    return "math" if grouped else "efficient"


def sdpa(run: Run, query: Value, key: Value, value: Value, heads: Heads, kernel: Kernel) -> Value:
    """Attention through the chosen fused kernel; (batch, length, heads, width) comes out contiguous."""
    query, key, value = lowered(run, query), lowered(run, key), lowered(run, value)
    if kernel == "math":
        return _math(run, query, key, value, heads)
    bias = run.new(heads.mask.count, query.word, "mask as bias") if heads.mask is not None else None
    out = run.new(heads.out, query.word, "attention output")
    rows = heads.length if kernel in {"flash", "cpu"} else -(-heads.length // 32) * 32
    logsumexp = run.new(heads.batch * heads.queries * rows, 4, "attention log-sum-exp")
    if tracked(run, query, key, value):
        saved = run.save(query, key, value, out.view(), logsumexp, bias)
        back = {"flash": _flash_back, "efficient": _efficient_back, "cpu": _cpu_back}[kernel]
        run.link(out, (query.node, key.node, value.node), back, saved, heads)
    return out


def _flash_back(run: Run, saved: Saved, grad: Value, node: Node) -> Grads:
    """Results first, then the buffers of flash_api.cpp (mha_bwd)."""
    heads: Heads = node.extra
    grads = tuple(run.like(item, "attention gradient") for item in saved[:3])
    rows = -(-heads.length // 128) * 128
    width = -(-heads.width // 32) * 32
    softmax_d = run.new(heads.batch * heads.queries * rows, 4, "flash softmax sums")
    accumulator = run.new(heads.batch * rows * heads.queries * width, 4, "flash query accumulator")
    if heads.keys != heads.queries:
        count = heads.batch * heads.length * heads.queries * heads.width
        expanded = [run.new(count, grad.word, "expanded gradient") for _ in range(2)]
        del expanded
    del softmax_d, accumulator
    return grads


def _efficient_back(run: Run, saved: Saved, grad: Value, node: Node) -> Grads:
    heads: Heads = node.extra
    grads = tuple(run.like(item, "attention gradient") for item in saved[:3])
    if grad.word == 4:
        product = run.like(grad, "gradient x output")
        delta = run.new(heads.batch * heads.queries * heads.length, 4, "delta")
        del product
        accumulator = None
    else:
        delta = run.new(heads.batch * heads.queries * heads.length, 4, "delta")
        width = -(-heads.width // 32) * 32
        accumulator = run.new(heads.batch * heads.queries * heads.length * width, 4, "query accumulator")
    del delta, accumulator
    return grads


def _cpu_back(run: Run, saved: Saved, _grad: Value, _node: Node) -> Grads:
    return tuple(run.like(item, "attention gradient") for item in saved[:3])


def repeat_heads(run: Run, value: Value, heads: Heads) -> Value:
    """Keys or values copied to as many heads as there are queries."""
    if heads.keys == heads.queries:
        return value
    return copy(run, value, "repeated heads", value.count // heads.keys * heads.queries)


def _folded(run: Run, value: Value, heads: Heads, *, contiguous: bool) -> Value:
    """(batch, heads, ...) as (batch·heads, ...): a copy when the memory lies otherwise."""
    if contiguous or heads.batch == 1:
        return view(run, value)
    return copy(run, value, "folded heads")


def eager(run: Run, query: Value, key: Value, value: Value, heads: Heads) -> tuple[Value, Value]:
    """(output, weights) by the plain formula: the scores exist, in the stream's type and once more in fp32 after the softmax."""
    repeated = heads.keys != heads.queries
    keys = repeat_heads(run, key, heads)
    values = repeat_heads(run, value, heads)
    weights = scale(run, _scores(run, query, keys, heads, repeated=repeated), "scaled scores")
    if heads.softcap:
        weights = _capped(run, weights)
    if heads.mask is not None:
        weights = add(run, weights, heads.mask, "masked scores")
    if heads.sinks:
        weights = _with_sinks(run, weights, heads)
    elif heads.plain_softmax:
        weights = softmax(run, weights, 4 if run.autocast and run.cuda else weights.word, "softmax")
    else:
        weights = cast(run, softmax(run, weights, 4, "softmax"), query.word, "attention weights")
    weights = dropout(run, weights, heads.dropout)
    out = matmul(run, view(run, weights), _folded(run, values, heads, contiguous=repeated), heads.out, "attention output")
    return _heads_last(run, out, heads), weights


def _with_sinks(run: Run, weights: Value, heads: Heads) -> Value:
    """gpt-oss: one more column per head, taken off again after a softmax in the stream's own type."""
    column = Value(None, heads.batch * heads.queries * heads.length, weights.word)
    joined = concatenate(run, (weights, column), "scores and sinks")
    joined = add(run, joined, Value(None, 1, weights.word), "scores minus their maximum")
    return narrow(run, softmax(run, joined, joined.word, "softmax"), weights.count)


def _scores(run: Run, query: Value, keys: Value, heads: Heads, *, repeated: bool) -> Value:
    left = _folded(run, query, heads, contiguous=False)
    right = _folded(run, keys, heads, contiguous=repeated)
    return matmul(run, left, right, heads.scores, "scores")


def _capped(run: Run, weights: Value) -> Value:
    """tanh(x / cap) · cap, three tensors."""
    weights = scale(run, weights, "scores / cap")
    weights = tanh(run, weights, "tanh of scores")
    return scale(run, weights, "capped scores")


def _math(run: Run, query: Value, key: Value, value: Value, heads: Heads) -> Value:
    """The composite kernel (ATen attention.cpp, torch from 2.5 on): in fp32, a float mask, keys and values repeated, both scaled.

    It hands back the weights too, in the type of the queries; nobody keeps them.
    """
    word = query.word
    query, key, value = (cast(run, item, 4, "attention input in fp32") for item in (query, key, value))
    scaled = scale(run, query, "scaled queries")
    mask = _causal_mask(run, heads) if heads.causal else None
    keys = repeat_heads(run, key, heads)
    values = repeat_heads(run, value, heads)
    right = scale(run, keys, "scaled keys")
    repeated = heads.keys != heads.queries
    left = _folded(run, scaled, heads, contiguous=False)
    scores = matmul(run, left, _folded(run, right, heads, contiguous=repeated), heads.scores, "scores")
    del mask
    weights = softmax(run, scores, 4, "softmax")
    out = matmul(run, view(run, weights), _folded(run, values, heads, contiguous=repeated), heads.out, "attention output")
    out = cast(run, out, word, "attention output in 16 bit")
    if word != 4:
        returned = run.new(weights.count, word, "weights in 16 bit")
        del returned
    return _heads_last(run, out, heads)


def _heads_last(run: Run, value: Value, heads: Heads) -> Value:
    """The product's result with the tokens first; its gradient is put in order by a copy when there are several sequences."""
    return heads_view(run, copy(run, heads_view(run, value, copied=heads.batch > 1), "attention output, heads last"), copied=False)


def _causal_mask(run: Run, heads: Heads) -> Value:
    """Ones, their lower triangle, and the numbers that are added to the scores."""
    square = heads.length * heads.length
    ones = run.new(square, 1, "ones")
    triangle = run.new(square, 1, "causal mask")
    del ones
    mask = run.new(square, 4, "causal mask as numbers")
    del triangle
    return mask
