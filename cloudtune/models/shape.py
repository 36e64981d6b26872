"""The few integers of a model that memory and time depend on, and every parameter's name and shape. Values only.

A ``ModelShape`` says what transformers 5.23 builds from a ``config.json`` on the meta device: the same parameter
names, shapes and ties, in the same order. Identical layers are folded into one ``Block``, so a model of 126 layers
is as small a value as one of two. Nothing here reads a file or knows a model family; ``models/families.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

TensorKind = Literal["linear", "bias", "embedding", "position", "norm", "experts", "router", "conv", "other"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter. ``name`` is relative to its block; parameters outside the blocks carry their full name."""

    name: str
    shape: tuple[int, ...]
    kind: TensorKind
    """linear: weight (out, in) of an nn.Linear; experts: 3-D parameter of all experts; other: whatever has no better word."""
    tied_to: str | None = None
    """Full name of the parameter whose storage it shares; such a tensor is never counted."""
    plain: bool = True
    """For linear: bitsandbytes replaces the module. False for subclasses of nn.Linear and what the model class exempts."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def module(self) -> str:
        """Name of the module that owns the parameter (``self_attn.q_proj`` of ``self_attn.q_proj.weight``)."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The sequence mixer of a block.

    softmax: ``heads`` query heads share ``kv_heads`` keys and values. mla: keys and values are expanded from a
    compressed state of ``kv_rank``. linear: gated delta rule with ``heads`` value heads and ``kv_heads`` key heads.
    """

    kind: Literal["softmax", "linear", "mla"]
    heads: int
    kv_heads: int
    head_dim: int
    """Width of one query or key head."""
    v_head_dim: int
    window: int | None = None
    """Tokens that a query sees when attention is local; None = the whole sequence."""
    qk_norm: bool = False
    bias: bool = False
    softcap: float | None = None
    sinks: bool = False
    gated: bool = False
    """The query projection is twice as wide: its second half gates the output."""
    fused: bool = False
    """Queries, keys and values come from one projection."""
    shares_kv: bool = False
    """No key and value projections: reads the keys and values of an earlier layer."""
    q_rank: int | None = None
    kv_rank: int | None = None
    rope_dim: int | None = None
    """Part of ``head_dim`` that is rotated (mla)."""
    conv_width: int = 0
    """Kernel of the short convolution (linear)."""


@dataclass(frozen=True, slots=True)
class MlpShape:
    """The feed-forward part of a block. For ``moe``, ``width`` is a dense MLP that runs beside the experts (0 = none)."""

    kind: Literal["gated", "plain", "moe"]
    width: int
    activation: str
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0
    """Width of the expert that sees every token; 0 = none."""
    fused: bool = False
    """Gate and up projection are one matrix."""


@dataclass(frozen=True)  # without slots, so that a sum is kept
class Block:
    """Identical layers, folded: ``layers`` are their indices."""

    kind: str
    """attention+mlp, attention+moe, linear_attention+mlp, linear_attention+moe or encoder."""
    layers: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    attention: AttentionShape | None
    mlp: MlpShape

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @cached_property
    def parameters(self) -> int:
        """Parameters of one layer."""
        return sum(tensor.numel for tensor in self.tensors if tensor.tied_to is None)


@dataclass(frozen=True)
class ModelShape:
    """A whole model with its language-modelling head."""

    model_type: str
    family: Literal["decoder", "encoder"]
    architecture: str
    """Class that transformers builds, such as LlamaForCausalLM."""
    hidden_size: int
    vocab_size: int
    num_layers: int
    max_positions: int | None
    tied: bool
    """The head shares the storage of the input embedding."""
    norm: Literal["rmsnorm", "layernorm"]
    final_softcap: float | None
    layers_name: str
    """Name of the list of blocks: layer 3's q_proj is ``{layers_name}.3.self_attn.q_proj``."""
    stem: tuple[Tensor, ...]
    """What comes before the blocks: embeddings, positions, their norm."""
    blocks: tuple[Block, ...]
    head: tuple[Tensor, ...]
    """What comes after the blocks: final norm, projection to the vocabulary."""
    dtype: str | None
    """Type the checkpoint is stored in, when the config says: bfloat16, float16 or float32."""
    source: str
    """Where the numbers come from, for people."""
    parallel: bool = False
    """Attention and MLP read the same normed input and are added together."""
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    registered_late: frozenset[str] = frozenset()
    """Stem tensors that transformers registers after the final norm (they matter only for the order)."""

    @cached_property
    def parameters(self) -> int:
        """Exact number of parameters; tied ones count once."""
        ends = sum(tensor.numel for tensor in (*self.stem, *self.head) if tensor.tied_to is None)
        return ends + sum(block.parameters * block.count for block in self.blocks)

    @property
    def output_embedding(self) -> str:
        """Full name of the weight that projects to the vocabulary."""
        wide = (self.vocab_size, self.hidden_size)
        return next(tensor.name for tensor in reversed(self.head) if tensor.kind == "linear" and tensor.shape == wide)

    def block_of(self, layer: int) -> Block:
        """The block that holds the layer with this index."""
        return next(block for block in self.blocks if layer in block.layers)

    def modules(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of every layer as (full name, tensor), in the order of transformers' named_parameters()."""
        late = [tensor for tensor in self.stem if tensor.name in self.registered_late]
        yield from ((tensor.name, tensor) for tensor in self.stem if tensor.name not in self.registered_late)
        by_layer = {layer: block for block in self.blocks for layer in block.layers}
        for layer in range(self.num_layers):
            for tensor in by_layer[layer].tensors:
                yield f"{self.layers_name}.{layer}.{tensor.name}", tensor
        position = 1 if late else 0  # the final norm is registered before the late ones
        for tensor in (*self.head[:position], *late, *self.head[position:]):
            yield tensor.name, tensor

    def linear_modules(self) -> Iterator[tuple[str, Tensor]]:
        """(module name, weight) of every nn.Linear but the output embedding: what all-linear adapters target."""
        output = self.output_embedding
        for name, tensor in self.modules():
            if tensor.kind == "linear" and name != output:
                yield name.removesuffix(".weight"), tensor

    def quantised_modules(self) -> Iterator[tuple[str, Tensor]]:
        """(module name, weight) of what transformers 5.23 lets bitsandbytes replace: the linear modules that are plain."""
        return ((name, tensor) for name, tensor in self.linear_modules() if tensor.plain)

    def with_source(self, source: str) -> ModelShape:
        """The same shape with another word on where it comes from."""
        return replace(self, source=source)
