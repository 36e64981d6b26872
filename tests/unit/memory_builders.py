"""Small recipes, shapes and layouts for the tests of the memory reckoning."""

from __future__ import annotations

from typing import Any

from cloudtune.memory.device import Device
from cloudtune.models.families import shape_of
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import GIB

L4 = Device.cuda("L4", total_bytes=23 * GIB)
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


def shape(model_type: str = "llama", **fields: Any) -> ModelShape:
    return shape_of({"model_type": model_type, **SMALL, **fields}, source="test")


def recipe(method: dict[str, Any] | None = None, *, length: int = 512, task: str = "causal_lm", **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "name": "test",
            "model": {"base": "some/model"},
            "task": task,
            "method": method or {"type": "lora"},
            "data": {"train": [{"path": "rows.jsonl", "format": "text"}], "max_length": length},
            "training": {"fused_loss": False, **training},
        }
    )


def layout(*, micro: int = 2, checkpointing: bool = True, gpus: int = 1, sharding: str = "none", accumulation: int = 1) -> Layout:
    return Layout(
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        gpus=gpus,
        sharding=sharding,  # type: ignore[arg-type]
    )
