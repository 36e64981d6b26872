"""How many weights a method trains, and what is written down of them: checkpoints and results. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cloudtune.models.shape import ModelShape
from cloudtune.recipe.method import is_full

if TYPE_CHECKING:
    from cloudtune.recipe.spec import FullMethod, LoraMethod, Recipe

_ATTENTION = frozenset({"self_attn", "attention", "attn", "self", "self_attention"})


def is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    """Whether the linear weight ``name`` (``self_attn.q_proj.weight``) gets an adapter."""
    if targets == "all-linear":
        return True
    path = name.removesuffix(".weight").split(".")
    if targets == "attention":
        return any(piece in _ATTENTION for piece in path)
    return path[-1] in targets or any(".".join(path).endswith("." + target) for target in targets)


def trained_weights(recipe: Recipe, shape: ModelShape) -> int:
    """All weights; or r x (in + out) for every adapted matrix, r per expert and side for adapted expert tensors, and saved modules."""
    return _trained(recipe.method, shape)


@lru_cache(maxsize=64)
def _trained(method: FullMethod | LoraMethod, shape: ModelShape) -> int:
    if is_full(method):
        return shape.parameters
    ends = (*shape.stem, *shape.head)
    total = sum(tensor.numel for tensor in ends if any(is_target(tensor.name, (name,)) for name in method.modules_to_save))
    total += len(method.trainable_tokens) * shape.hidden_size
    for block in shape.blocks:
        for tensor in block.tensors:
            if tensor.kind == "linear" and is_target(tensor.name, method.target_modules):
                total += block.count * method.r * sum(tensor.shape)
            elif any(tensor.name.endswith(name) for name in method.target_parameters):
                experts, *sides = tensor.shape
                total += block.count * method.r * experts * sum(sides)
    return total


def checkpoint_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """Trained weights and two optimizer moments in 32 bits (moments of one byte for the 8-bit optimizers)."""
    moment = 1 if "8bit" in recipe.training.optimizer else 4
    return trained_weights(recipe, shape) * (4 + 2 * moment)


def result_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """What is uploaded at the end: adapter or model, and the merged model when asked for."""
    whole = 2 * shape.parameters
    if is_full(recipe.method):
        return whole
    return 4 * trained_weights(recipe, shape) + (whole if recipe.output.merge else 0)
