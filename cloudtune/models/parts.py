"""The small pieces that every family is put together from: named tensors of linear layers, norms, MLPs, experts. Pure."""

from __future__ import annotations

from typing import NamedTuple

from cloudtune.models.shape import AttentionShape, MlpShape, Tensor, TensorKind

Tensors = tuple[Tensor, ...]


class Mixer(NamedTuple):
    """Attention (or what stands in its place) and its tensors."""

    shape: AttentionShape
    tensors: Tensors


class Feed(NamedTuple):
    """The feed-forward part and its tensors."""

    shape: MlpShape
    tensors: Tensors


def parameter(name: str, *shape: int, kind: TensorKind = "other", tied_to: str | None = None) -> Tensors:
    """One free parameter."""
    return (Tensor(name, shape, kind, tied_to),)


def linear(name: str, out: int, into: int, *, bias: bool = False, tied_to: str | None = None, plain: bool = True) -> Tensors:
    """An nn.Linear: weight (out, in) and, when asked, its bias. ``plain``: no subclass, so bitsandbytes replaces it."""
    weight = Tensor(f"{name}.weight", (out, into), "linear", tied_to, plain)
    return (weight, Tensor(f"{name}.bias", (out,), "bias")) if bias else (weight,)


def norm(name: str, width: int, *, bias: bool = False) -> Tensors:
    """RMSNorm or LayerNorm: a scale and, when asked, a shift."""
    scale = Tensor(f"{name}.weight", (width,), "norm")
    return (scale, Tensor(f"{name}.bias", (width,), "norm")) if bias else (scale,)


def embedding(name: str, rows: int, width: int) -> Tensors:
    """A table of token (or token type) vectors."""
    return (Tensor(f"{name}.weight", (rows, width), "embedding"),)


def positions(name: str, rows: int, width: int) -> Tensors:
    """A learned table of positions."""
    return (Tensor(f"{name}.weight", (rows, width), "position"),)


def gated(prefix: str, hidden: int, width: int, *, bias: bool = False) -> Tensors:
    """gate, up and down projection: down(act(gate(x)) * up(x))."""
    return (
        *linear(f"{prefix}.gate_proj", width, hidden, bias=bias),
        *linear(f"{prefix}.up_proj", width, hidden, bias=bias),
        *linear(f"{prefix}.down_proj", hidden, width, bias=bias),
    )


def experts(prefix: str, count: int, hidden: int, width: int) -> Tensors:
    """All experts of a layer as two 3-D parameters, (expert, out, in)."""
    return (
        *parameter(f"{prefix}.gate_up_proj", count, 2 * width, hidden, kind="experts"),
        *parameter(f"{prefix}.down_proj", count, hidden, width, kind="experts"),
    )


def transposed_experts(prefix: str, count: int, hidden: int, width: int, *, bias: bool = False) -> Tensors:
    """All experts of a layer as (expert, in, out), with a bias per expert when asked."""
    up = parameter(f"{prefix}.gate_up_proj", count, hidden, 2 * width, kind="experts")
    down = parameter(f"{prefix}.down_proj", count, width, hidden, kind="experts")
    if not bias:
        return (*up, *down)
    up_bias = parameter(f"{prefix}.gate_up_proj_bias", count, 2 * width, kind="bias")
    return (*up, *up_bias, *down, *parameter(f"{prefix}.down_proj_bias", count, hidden, kind="bias"))


def router(name: str, count: int, hidden: int) -> Tensors:
    """A router that is a bare parameter of its own module."""
    return parameter(name, count, hidden, kind="router")
