"""The default ``Behaviour``: what cloudtune's own trainer does with a recipe on a device. Pure.

``containers/trainer/cloudtune_trainer`` (model.py, loss.py, optimizers.py, surroundings.py) is the other side of this
file; ``tests/trainer/test_memory_oracle.py`` and ``tests/unit/test_memory_behaviour.py`` keep the two equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.behaviour import Optimizer as OptimizerName
from cloudtune.memory.device import Device
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_full, is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

# cloudtune_trainer/loss.py CHUNK
CHUNK_TOKENS = 1024
OPTIMIZERS: dict[str, tuple[OptimizerName, str, bool]] = {
    # name -> (states, kernel, paged); cloudtune_trainer/optimizers.py never takes the foreach kernel
    "adamw_torch_fused": ("adamw", "fused", False),
    "adamw_torch": ("adamw", "loop", False),
    "adamw_8bit": ("adamw_8bit", "fused", False),
    "paged_adamw_8bit": ("adamw_8bit", "fused", True),
    "paged_adamw_32bit": ("adamw_32bit", "fused", True),
    "lion_8bit": ("lion_8bit", "fused", False),
    "adafactor": ("adafactor", "loop", False),
    "sgd": ("sgd", "loop", False),
}


def trainer_behaviour(recipe: Recipe, layout: Layout, device: Device) -> Behaviour:
    """How our trainer runs ``recipe`` with ``layout`` on ``device``."""
    cpu = device.kind == "cpu"
    word = 4 if cpu or recipe.model.dtype == "float32" else 2
    method = recipe.method
    int8 = is_qlora(method) and method.quantization == "int8"
    attention = "sdpa" if recipe.model.attention == "auto" else recipe.model.attention
    states, kernel, paged = OPTIMIZERS[recipe.training.optimizer]
    return Behaviour(
        attention=attention,
        padding_mask=attention != "flash_attention_2" and (recipe.data.packing or recipe.task == "masked_lm"),
        compute_word=word,
        half=recipe.model.dtype == "float16" and not cpu,
        autocast=word == 2,
        full_word=4 if is_full(method) else word,
        loss="chunked" if recipe.training.fused_loss is True else "full",
        chunk_tokens=CHUNK_TOKENS,
        checkpointing=layout.gradient_checkpointing,
        reentrant=int8,
        accumulation=layout.gradient_accumulation_steps > 1,
        optimizer=states,
        optimizer_kernel=kernel,  # type: ignore[arg-type]
        paged=paged and not cpu,
        allocator="expandable",
        loading="host" if cpu else "device",
    )
