"""Name → optimizer. Never the ``foreach`` kind: its temporary copy of all states is the memory peak of large full trainings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cloudtune.recipe.spec import TrainingSpec


def make_optimizer(model: nn.Module, training: TrainingSpec) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable weights; biases, norms and other vectors do not decay."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, betas = float(training.learning_rate), training.adam_betas
    match training.optimizer:
        case "adamw_torch_fused":
            return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
        case "adamw_torch":
            return torch.optim.AdamW(groups, lr=rate, betas=betas, foreach=False)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, foreach=False)
        case "adafactor":
            from transformers.optimization import Adafactor

            return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
        case name:
            return _eight_bit(name, model, groups, rate, betas)


def _eight_bit(name: str, model: nn.Module, groups: list[dict[str, Any]], rate: float, betas: tuple[float, float]) -> Any:
    """bitsandbytes' optimizers. Embeddings keep 32-bit states: their rare, large gradients upset 8-bit ones."""
    import bitsandbytes
    from bitsandbytes.optim import GlobalOptimManager

    kinds = {
        "adamw_8bit": "AdamW8bit",
        "paged_adamw_8bit": "PagedAdamW8bit",
        "paged_adamw_32bit": "PagedAdamW32bit",
        "lion_8bit": "Lion8bit",
    }
    if name != "paged_adamw_32bit":
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})
    return getattr(bitsandbytes.optim, kinds[name])(groups, lr=rate, betas=betas)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the coming step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
