"""Folding layers into blocks and putting stem, blocks and head together. Pure; knows no family."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from cloudtune.models.fields import MOST_LAYERS, Fields
from cloudtune.models.parts import Feed, Mixer, Tensors
from cloudtune.models.shape import Block, ModelShape

Key = TypeVar("Key", bound=Hashable)
_DTYPES = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32", "half": "float16", "float": "float32"}


class Layer(NamedTuple):
    """One layer: its mixer, its feed-forward part, and all tensors in transformers' order."""

    mixer: Mixer
    feed: Feed
    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Outline:
    """What a family says about a whole model; the rest is read from the config."""

    architecture: str
    stem: Tensors
    head: Tensors
    layers_name: str = "model.layers"
    family: Literal["decoder", "encoder"] = "decoder"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    final_softcap: float | None = None
    parallel: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    registered_late: frozenset[str] = field(default_factory=frozenset)


def layer_count(fields: Fields) -> int:
    """Number of layers, bounded so that nonsense cannot exhaust memory."""
    return fields.integer("num_hidden_layers", "n_layers", "n_layer", most=MOST_LAYERS)


def fold(keys: Sequence[Key], build: Callable[[Key], Layer], family: str) -> tuple[Block, ...]:
    """One block per different key, in the order of first appearance. ``build`` runs once per block, not per layer."""
    members: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    return tuple(_block(build(key), tuple(layers), family) for key, layers in members.items())


def _block(layer: Layer, layers: tuple[int, ...], family: str) -> Block:
    attention, mlp = layer.mixer.shape, layer.feed.shape
    mixer = "linear_attention" if attention.kind == "linear" else "attention"
    kind = "encoder" if family == "encoder" else f"{mixer}+{'moe' if mlp.kind == 'moe' else 'mlp'}"
    return Block(kind, layers, layer.tensors, attention, mlp)


def assemble(fields: Fields, outline: Outline, blocks: tuple[Block, ...]) -> ModelShape:
    """The whole shape."""
    tied = any(tensor.tied_to is not None and tensor.name.endswith(".weight") for tensor in outline.head)
    return ModelShape(
        model_type=fields.model_type,
        family=outline.family,
        architecture=outline.architecture,
        hidden_size=hidden_size(fields),
        vocab_size=fields.integer("vocab_size"),
        num_layers=layer_count(fields),
        max_positions=fields.maybe_integer("max_position_embeddings"),
        tied=tied,
        norm=outline.norm,
        final_softcap=outline.final_softcap,
        layers_name=outline.layers_name,
        stem=outline.stem,
        blocks=blocks,
        head=outline.head,
        dtype=stored_dtype(fields),
        source=fields.where,
        parallel=outline.parallel,
        hidden_dropout=outline.hidden_dropout,
        attention_dropout=outline.attention_dropout,
        registered_late=outline.registered_late,
    )


def hidden_size(fields: Fields) -> int:
    """Width of the residual stream."""
    return fields.integer("hidden_size", "dim", "d_model", "n_embed", "n_embd")


def stored_dtype(fields: Fields) -> str | None:
    """Type the checkpoint is stored in; None when the config does not say or names one that training cannot use."""
    value = fields.raw("dtype", "torch_dtype")
    if value is None:
        return None
    if not isinstance(value, str):
        raise fields.fault("dtype", "the name of a number type such as bfloat16 is expected")
    return _DTYPES.get(value.removeprefix("torch."))
