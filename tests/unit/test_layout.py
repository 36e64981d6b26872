"""The ways of laying work on GPUs: the global batch is kept exactly, illegal combinations are left out with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.planning.layout import layouts
from cloudtune.recipe.sharded import why_not_sharded
from cloudtune.recipe.spec import Recipe


def recipe(method=None, **training) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "name": "t",
            "model": {"base": "x/y"},
            "method": method or {"type": "lora"},
            "data": {"train": [{"path": "a.jsonl"}]},
            "training": training,
        }
    )


@given(st.integers(1, 512), st.integers(1, 8), st.sampled_from([0, 1, 2, 4, 8, 16]))
def test_every_layout_keeps_the_global_batch(batch, nodes, gpus):
    found = layouts(recipe(batch_size=batch), nodes=nodes, gpus=gpus)
    workers = nodes * max(1, gpus)
    if isinstance(found, str):
        assert batch % workers
        return
    assert found
    for layout in found:
        assert layout.micro_batch_size * layout.gradient_accumulation_steps * layout.data_parallel == batch
        assert layout.data_parallel == workers


@given(st.integers(1, 512), st.integers(2, 64))
def test_an_indivisible_batch_names_one_that_can_be_divided(batch, workers):
    answer = layouts(recipe(batch_size=batch), nodes=1, gpus=workers)
    if isinstance(answer, str):
        nearest = int(answer.rsplit(" ", 1)[1])
        assert nearest % workers == 0
        assert abs(nearest - batch) < workers
        assert isinstance(layouts(recipe(batch_size=nearest), nodes=1, gpus=workers), tuple)


def test_the_sentence_of_an_indivisible_batch():
    answer = layouts(recipe(batch_size=30), nodes=1, gpus=8)
    assert answer == "batch_size 30 cannot be divided over 8 workers; the nearest that can is 32"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_users_own_choices_are_kept(wanted):
    found = layouts(recipe(batch_size=8, micro_batch_size=2, gradient_checkpointing=wanted), nodes=1, gpus=1)
    assert isinstance(found, tuple)
    assert {(layout.micro_batch_size, layout.gradient_checkpointing) for layout in found} == {(2, wanted)}


def test_an_own_micro_batch_that_does_not_divide_is_refused():
    assert "not micro_batch_size 2 x 8 workers" in str(layouts(recipe(batch_size=8, micro_batch_size=2), nodes=1, gpus=8))


@pytest.mark.parametrize(
    ("method", "optimizer", "legal"),
    [
        ({"type": "full"}, "adamw_torch_fused", True),
        ({"type": "full"}, "adamw_8bit", False),
        ({"type": "qlora"}, "adamw_torch_fused", True),
        ({"type": "qlora"}, "paged_adamw_8bit", False),
        ({"type": "qlora", "quantization": "int8"}, "adamw_torch_fused", False),
        ({"type": "full"}, "adafactor", False),
        ({"type": "lora", "init": "pissa"}, "adamw_torch_fused", False),
        ({"type": "lora", "use_dora": True}, "adamw_torch_fused", True),
        ({"type": "qlora", "use_dora": True}, "adamw_torch_fused", False),
        ({"type": "lora", "modules_to_save": ["lm_head"]}, "adamw_torch_fused", False),
        ({"type": "lora", "trainable_tokens": [3]}, "sgd", False),
        ({"type": "lora", "target_parameters": ["mlp.experts.down_proj"]}, "adamw_torch", False),
    ],
)
def test_what_cannot_be_sharded_is_only_replicated(method, optimizer, legal):
    wanted = recipe(method, batch_size=8, optimizer=optimizer)
    found = layouts(wanted, nodes=1, gpus=4)
    assert isinstance(found, tuple)
    assert ({layout.sharding for layout in found} == {"ddp", "fsdp"}) is legal
    assert (why_not_sharded(wanted) is None) is legal


def test_float16_cannot_be_sharded():
    half = recipe({"type": "full"}, batch_size=8)
    half = half.model_copy(update={"model": half.model.model_copy(update={"dtype": "float16"})})
    assert {layout.sharding for layout in layouts(half, nodes=1, gpus=4)} == {"ddp"}
    assert "float16" in str(why_not_sharded(half))
