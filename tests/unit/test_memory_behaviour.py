"""The default behaviour is what our trainer does: the numbers and choices of its source, read without importing torch."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from cloudtune.memory import trainer
from cloudtune.memory.device import Device
from cloudtune.recipe.spec import Optimizer
from cloudtune.units import GIB
from tests.unit.memory_builders import L4, layout, recipe

SOURCE = Path(__file__).resolve().parents[2] / "containers" / "trainer" / "cloudtune_trainer"


def text(name: str) -> str:
    return (SOURCE / name).read_text("utf-8")


def constant(name: str, variable: str) -> object:
    for node in ast.parse(text(name)).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == variable for target in node.targets):
            return ast.literal_eval(node.value)
    raise AssertionError(f"{variable} is not in {name}")


def test_the_chunk_of_the_loss_is_the_trainers() -> None:
    assert constant("loss.py", "CHUNK") == trainer.CHUNK_TOKENS


def test_every_optimizer_of_the_recipe_is_known() -> None:
    assert set(trainer.OPTIMIZERS) == set(get_args(Optimizer))
    assert "foreach=False" in text("optimizers.py")
    assert all(kernel != "foreach" for _, kernel, _ in trainer.OPTIMIZERS.values())


def test_the_allocator_is_expandable_as_the_trainer_sets_it() -> None:
    assert "expandable_segments:True" in text("surroundings.py")
    assert trainer.trainer_behaviour(recipe(), layout(), L4).allocator == "expandable"


@pytest.mark.parametrize(
    ("method", "reentrant"), [({"type": "lora"}, False), ({"type": "qlora"}, False), ({"type": "qlora", "quantization": "int8"}, True)]
)
def test_only_8_bit_is_reentrant(method: dict, reentrant: bool) -> None:
    assert 'quantization == "int8"' in text("model.py")
    assert trainer.trainer_behaviour(recipe(method), layout(), L4).reentrant is reentrant


def test_precision_follows_the_device() -> None:
    on_gpu = trainer.trainer_behaviour(recipe({"type": "full"}), layout(), L4)
    on_cpu = trainer.trainer_behaviour(recipe({"type": "full"}), layout(), Device.cpu(total_bytes=16 * GIB))
    assert (on_gpu.autocast, on_gpu.compute_word, on_gpu.full_word) == (True, 2, 4)
    assert (on_cpu.autocast, on_cpu.compute_word, on_cpu.full_word) == (False, 4, 4)
    assert "prepare_model_for_kbit_training" not in text("model.py")
    assert not on_gpu.kbit_upcast


def test_shards_are_gathered_and_reduced_as_the_trainer_does_it() -> None:
    source = text("sharding.py")
    assert "param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None, cast_forward_inputs=False" in source
    # one group a layer and the root, freed after the forward pass as fully_shard does by itself; reduced after every micro batch
    assert source.count("fully_shard(") == 2
    assert "reshard_after_forward" not in source
    assert "set_requires_gradient_sync" not in source + text("learner.py")
    sharded = replace(layout(), gpus=4, sharding="fsdp")
    behaviour = trainer.trainer_behaviour(recipe({"type": "full"}), sharded, L4)
    assert behaviour.copy_out
    assert (behaviour.full_word, behaviour.compute_word, behaviour.adapter_word, behaviour.reduce_word) == (4, 2, 4, 4)
