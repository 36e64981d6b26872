"""The peak in closed form, good to about a third: what the planner starts from before any replay. Pure, 0.2 ms.

floor (weights, adapters, optimizer states: memory/bounds.py) + context + gradients of what is trained
activations  per layer and token 16·h + 2·(in + out) of every matrix; with checkpointing 2·h and one layer in full
loss         12 bytes x tokens x vocabulary for the full loss; the chunked one holds 4·h per token and one chunk
shards       FSDP gathers two layers at a time
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.memory.bounds import floor_bytes
from cloudtune.memory.device import Device
from cloudtune.memory.reckon import job_of
from cloudtune.models.shape import Block, ModelShape
from cloudtune.planning.trained import trained_weights
from cloudtune.recipe.layout import Layout

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

LOSS_CHUNK_TOKENS = 1024
GRADIENT_BYTES = 4


def rough_bytes(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> int:
    """The peak with its context, in bytes per GPU."""
    word = 4 if device.kind == "cpu" or recipe.model.dtype == "float32" else 2
    shards = layout.data_parallel if layout.sharding == "fsdp" else 1
    tokens = layout.micro_batch_size * recipe.data.max_length
    gathered = _gathered(shape, word) if shards > 1 else 0
    gradients = GRADIENT_BYTES * trained_weights(recipe, shape) // shards
    return (
        device.context_bytes
        + floor_bytes(job_of(recipe, shape, layout, device))
        + gradients
        + gathered
        + tokens * _activations(shape, word, checkpointing=layout.gradient_checkpointing)
        + _loss(recipe, shape, tokens, word)
    )


def _gathered(shape: ModelShape, word: int) -> int:
    """What FSDP holds whole: two layers, and embeddings with the head, which stay gathered through the step."""
    ends = shape.parameters - sum(block.parameters * block.count for block in shape.blocks)
    return word * (2 * max(block.parameters for block in shape.blocks) + ends)


def _activations(shape: ModelShape, word: int, *, checkpointing: bool) -> int:
    """Bytes per token that wait for the backward pass."""
    layers = [(block.count, _saved(block, shape.hidden_size, word)) for block in shape.blocks]
    if checkpointing:
        return word * shape.hidden_size * shape.num_layers + max(saved for _, saved in layers)
    return sum(count * saved for count, saved in layers)


def _saved(block: Block, hidden: int, word: int) -> int:
    used = block.mlp.experts_per_token / block.mlp.experts if block.mlp.experts else 0.0
    matrices = sum(sum(tensor.shape) for tensor in block.tensors if tensor.kind == "linear")
    experts = sum(used * tensor.shape[0] * sum(tensor.shape[1:]) for tensor in block.tensors if tensor.kind == "experts")
    return 16 * hidden + word * (matrices + round(experts))


def _loss(recipe: Recipe, shape: ModelShape, tokens: int, word: int) -> int:
    if recipe.training.fused_loss is True:
        return 2 * word * tokens * shape.hidden_size + 12 * min(tokens, LOSS_CHUNK_TOKENS) * shape.vocab_size
    return (8 + 2 * word) * tokens * shape.vocab_size
