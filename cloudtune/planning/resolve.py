"""Every ``auto`` of a recipe decided, and each decision said in words. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cloudtune.models.shape import ModelShape
from cloudtune.planning.work import Amount, epochs
from cloudtune.recipe.layout import Layout

if TYPE_CHECKING:
    from cloudtune.planning.plan import Chosen
    from cloudtune.recipe.spec import Recipe, TrainingSpec

FUSED_LOSS_FROM_VOCABULARY = 65_536


def uses_fused_loss(recipe: Recipe, shape: ModelShape) -> bool:
    """auto: cross-entropy in chunks as soon as the full logits would cost more than they save in time."""
    if recipe.training.fused_loss != "auto":
        return recipe.training.fused_loss
    return recipe.task == "causal_lm" and shape.vocab_size >= FUSED_LOSS_FROM_VOCABULARY


def learning_rate(recipe: Recipe) -> float:
    """auto: 2e-4 for adapters, 2e-5 when all weights are trained."""
    chosen = recipe.training.learning_rate
    if chosen != "auto":
        return chosen
    return 2e-5 if recipe.method.type == "full" else 2e-4


def before_layout(recipe: Recipe, shape: ModelShape) -> Recipe:
    """What memory depends on, decided before any layout is tried: attention kernel, fused loss."""
    training = recipe.training.model_copy(update={"fused_loss": uses_fused_loss(recipe, shape)})
    model = recipe.model.model_copy(update={"attention": attention_kernel(recipe, shape)})
    return recipe.model_copy(update={"training": training, "model": model})


def attention_kernel(recipe: Recipe, shape: ModelShape) -> str:
    """auto: sdpa, except where transformers 5.23 has no sdpa for the model: capped scores (Gemma 2) and sinks (gpt-oss)."""
    if recipe.model.attention != "auto":
        return recipe.model.attention
    attentions = [block.attention for block in shape.blocks if block.attention is not None]
    return "eager" if any(attention.softcap or attention.sinks for attention in attentions) else "sdpa"


def resolve(
    recipe: Recipe, shape: ModelShape, layout: Layout, chosen: Chosen, amount: Amount, *, seconds: float, save_every: float
) -> Recipe:
    """The recipe without any ``auto``. ``seconds``: expected time of the training; ``save_every``: wanted checkpoint interval."""
    base = before_layout(recipe, shape)
    training = base.training
    save = checkpoint_steps(recipe, amount.steps, seconds, save_every)
    evaluate = training.eval_steps if training.eval_steps != "auto" else max(1, math.ceil(amount.steps / 5))
    warmup = {} if training.warmup_steps is not None else {"warmup_ratio": _warmup(training)}
    length = {} if training.max_steps is not None else {"epochs": epochs(training)}
    decided = {
        "micro_batch_size": layout.micro_batch_size,
        "gradient_checkpointing": layout.gradient_checkpointing,
        "learning_rate": learning_rate(recipe),
        "save_steps": save,
        "eval_steps": evaluate,
        **warmup,
        **length,
    }
    compute = {"provider": chosen.provider, "instance": chosen.instance, "nodes": layout.nodes, "disk_gib": disk_gib(recipe, shape)}
    return base.model_copy(
        update={
            "training": training.model_copy(update=decided),
            "compute": base.compute.model_copy(update=compute),
        }
    )


def _warmup(training: TrainingSpec) -> float:
    return training.warmup_ratio if training.warmup_ratio is not None else 0.03


def checkpoint_steps(recipe: Recipe, steps: int, seconds: float, save_every: float) -> int:
    """Optimizer steps between checkpoints. auto: by minutes, at least two per run, never more than a hundred."""
    if recipe.training.save_steps != "auto":
        return recipe.training.save_steps
    by_time = steps * save_every / max(seconds, 1.0)
    return max(1, min(math.ceil(steps / 2), max(math.ceil(steps / 100), math.ceil(by_time))))


def disk_gib(recipe: Recipe, shape: ModelShape) -> int:
    """Disk in GiB: stored weights, two checkpoints, the result and 30 GiB for system and image."""
    if recipe.compute.disk_gib != "auto":
        return recipe.compute.disk_gib
    weights = shape.parameters * 2
    copies = 8 if recipe.method.type == "full" else 2 if recipe.output.merge else 1
    return 30 + math.ceil(weights * (1 + copies) / 2**30)


def decisions(recipe: Recipe, resolved: Recipe, layout: Layout) -> tuple[str, ...]:
    """Each ``auto`` and what became of it, one sentence each."""
    said = []
    training = recipe.training
    if training.micro_batch_size == "auto":
        said.append(
            f"micro_batch_size: {layout.micro_batch_size} "
            f"(x {layout.gradient_accumulation_steps} accumulation x {layout.data_parallel} workers = {layout.batch_size})"
        )
    if training.gradient_checkpointing == "auto":
        said.append(f"gradient_checkpointing: {'on, to save memory' if layout.gradient_checkpointing else 'off, memory allows it'}")
    if training.fused_loss == "auto":
        said.append(f"fused_loss: {'on' if resolved.training.fused_loss else 'off'}")
    if training.learning_rate == "auto":
        said.append(f"learning_rate: {resolved.training.learning_rate:g}")
    if training.save_steps == "auto":
        said.append(f"save_steps: {resolved.training.save_steps}")
    if recipe.data.eval is not None and training.eval_steps == "auto":
        said.append(f"eval_steps: {resolved.training.eval_steps}")
    return tuple(said)
