"""Which recipes can be trained with their weights spread over workers (FSDP). Pure; the planner and the trainer ask here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.recipe.method import is_full, is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe


SHARDED_OPTIMIZERS = frozenset({"adamw_torch_fused", "adamw_torch", "sgd"})
"""bitsandbytes' optimizers do not take sharded tensors (its issues 89 and 1633, both open in November 2026); Adafactor's
row and column means of one shard are not those of the whole weight."""


def why_not_sharded(recipe: Recipe) -> str | None:
    """Why FSDP cannot train this recipe, in one sentence; None when it can."""
    if recipe.training.optimizer not in SHARDED_OPTIMIZERS:
        return f"optimizer {recipe.training.optimizer} cannot be sharded; adamw_torch_fused can"
    if recipe.model.dtype == "float16":
        return "float16 needs a loss scaler, which does not see all shards; dtype: bfloat16 can be sharded"
    return _method(recipe)


def _method(recipe: Recipe) -> str | None:
    method = recipe.method
    if is_full(method):
        return None
    quantised = is_qlora(method)
    if is_qlora(method) and method.quantization == "int8":
        return "8-bit weights cannot be sharded; quantization: nf4 can"
    if method.init in ("pissa", "olora"):
        return f"init: {method.init} takes whole weights apart, and no worker has any; init: default can be sharded"
    if quantised and method.use_dora:
        return "use_dora measures quantised weights whole, and no worker has any; without it they can be sharded"
    for key in ("target_parameters", "trainable_tokens", "modules_to_save"):
        if getattr(method, key):
            return f"{key} cannot be sharded"
    return None
