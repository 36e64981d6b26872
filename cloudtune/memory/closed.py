"""Closed form of the peak: one formula per share, no timeline. Fast and rough; used to prune before any replay. Pure.

Formulas (bytes; T tokens of a micro batch, h hidden, V vocabulary, all from docs/memory.md):
    weights     2 per 16-bit element; NF4 1/2 + 4/64 (double: 1/2 + 1/64 + 4/(64·256)); int8 1 + 4 per output row
    adapters    r·(in + out) elements per adapted matrix, fp32
    training    fp32 gradient and two Adam moments per trained element (8-bit Adam 2·(1 + 4/256))
    activations per layer 16·h + 2·(in + out) of every linear per token; with checkpointing one layer in full and
                2·h per token of all others; eager attention adds 6·heads·S² per sequence
    logits      12·T·V for the full loss; the chunked loss holds 2·T·h and one chunk
"""

from __future__ import annotations

from dataclasses import dataclass

from cloudtune.memory.device import Device
from cloudtune.memory.estimate import MemoryPart
from cloudtune.models.shape import Block, ModelShape
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import FullMethod, QloraMethod, Recipe

LOSS_CHUNK_TOKENS = 1024
ATTENTION_WORDS = ("q", "k", "v", "o", "query", "key", "value", "qkv", "out_proj", "c_attn")


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the closed form in bytes per GPU."""

    parts: tuple[MemoryPart, ...]

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)


def closed_form(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> Shares:
    """All shares of the peak except the context, for one worker."""
    shards = layout.data_parallel if layout.sharding == "fsdp" else 1
    word = 4 if device.kind == "cpu" or recipe.model.dtype == "float32" else 2
    weights = _weight_bytes(recipe, shape, word) // shards
    adapters = _adapter_elements(recipe, shape)
    trained = shape.parameters if isinstance(recipe.method, FullMethod) else adapters
    trained_word = 4
    moments = _moment_bytes(recipe, trained) // shards
    parts = [
        MemoryPart(name="weights", bytes=weights),
        MemoryPart(name="adapters", bytes=adapters * 4 // shards),
        MemoryPart(name="gradients", bytes=trained * trained_word // shards),
        MemoryPart(name="optimizer", bytes=moments),
        MemoryPart(name="activations", bytes=_activation_bytes(recipe, shape, layout, word)),
        MemoryPart(name="logits", bytes=_logit_bytes(recipe, shape, layout, word)),
    ]
    if shards > 1:
        parts.append(MemoryPart(name="gathered layers", bytes=2 * word * _largest_block(shape)))
    return Shares(tuple(part for part in parts if part.bytes))


def _weight_bytes(recipe: Recipe, shape: ModelShape, word: int) -> int:
    linear = sum(block.count * tensor.numel for block in shape.blocks for tensor in block.tensors if tensor.kind == "linear")
    rest = shape.parameters - linear
    if isinstance(recipe.method, FullMethod):
        return 4 * shape.parameters
    if not isinstance(recipe.method, QloraMethod):
        return word * shape.parameters
    if recipe.method.quantization == "int8":
        return linear + word * rest
    scale = 1 / 64 + 4 / (64 * 256) if recipe.method.double_quant else 4 / 64
    return int(linear * (0.5 + scale)) + word * rest


def _adapter_elements(recipe: Recipe, shape: ModelShape) -> int:
    if isinstance(recipe.method, FullMethod):
        return 0
    total = 0
    for block in shape.blocks:
        for tensor in block.tensors:
            if tensor.kind == "linear" and is_target(tensor.name, recipe.method.target_modules):
                total += block.count * recipe.method.r * (tensor.shape[0] + tensor.shape[1])
    return total


def is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    """Whether the linear weight ``name`` (``layers.self_attn.q_proj.weight``) gets an adapter."""
    if targets == "all-linear":
        return True
    path = name.removesuffix(".weight").split(".")
    if targets == "attention":
        return any(piece in {"self_attn", "attention", "attn", "self", "self_attention"} for piece in path)
    return path[-1] in targets or any(".".join(path).endswith("." + target) for target in targets)


def _moment_bytes(recipe: Recipe, trained: int) -> int:
    kind = recipe.training.optimizer
    if kind in {"adamw_8bit", "paged_adamw_8bit"}:
        return int(trained * 2.03125)
    if kind == "lion_8bit":
        return int(trained * 1.015625)
    return {"sgd": 0, "adafactor": trained // 64}.get(kind, 8 * trained)


def _saved_per_token(block: Block, hidden: int, word: int) -> int:
    """Activations that one layer keeps for its backward pass, bytes per token."""
    linear = [tensor for tensor in block.tensors if tensor.kind == "linear"]
    return 16 * hidden + word * sum(tensor.shape[0] + tensor.shape[1] for tensor in linear)


def _activation_bytes(recipe: Recipe, shape: ModelShape, layout: Layout, word: int) -> int:
    tokens = layout.micro_batch_size * recipe.data.max_length
    per_layer = [(block.count, _saved_per_token(block, shape.hidden_size, word)) for block in shape.blocks]
    quadratic = _eager_bytes(recipe, shape, layout)
    if layout.gradient_checkpointing:
        stream = word * shape.hidden_size * shape.num_layers
        return tokens * (stream + max(saved for _, saved in per_layer)) + quadratic
    return tokens * sum(layers * saved for layers, saved in per_layer) + quadratic * shape.num_layers


def _eager_bytes(recipe: Recipe, shape: ModelShape, layout: Layout) -> int:
    if recipe.model.attention != "eager":
        return 0
    heads = max((block.attention.heads for block in shape.blocks if block.attention is not None), default=0)
    return 6 * heads * layout.micro_batch_size * recipe.data.max_length**2


def _logit_bytes(recipe: Recipe, shape: ModelShape, layout: Layout, word: int) -> int:
    tokens = layout.micro_batch_size * recipe.data.max_length
    if recipe.training.fused_loss is True:
        return 2 * word * tokens * shape.hidden_size + 12 * min(tokens, LOSS_CHUNK_TOKENS) * shape.vocab_size
    return (8 + 2 * word) * tokens * shape.vocab_size


def _largest_block(shape: ModelShape) -> int:
    return max(sum(tensor.numel for tensor in block.tensors) for block in shape.blocks)
