"""The layout search: the batch is kept exactly, the fastest way that fits is found, bisection equals brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.planning.layout import best_fit
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe


def recipe(**training) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "name": "t",
            "model": {"base": "x/y"},
            "method": {"type": "lora"},
            "data": {"train": [{"path": "a.jsonl"}]},
            "training": training,
        }
    )


def memory(layout: Layout) -> Estimate:
    """A reckoning with the right directions: activations by micro batch, less with checkpointing, less when sharded."""
    weights = 800 // (layout.data_parallel if layout.sharding == "fsdp" else 1)
    size = weights + layout.micro_batch_size * (10 if layout.gradient_checkpointing else 100)
    return Estimate(
        peak_bytes=size,
        allocated_bytes=size,
        reserved_bytes=size,
        context_bytes=0,
        error_bar=0,
        low_bytes=size,
        high_bytes=size,
        parts=(MemoryPart(name="all", bytes=size),),
    )


@given(st.integers(1, 256), st.integers(1, 3), st.sampled_from([0, 1, 2, 4, 8]), st.integers(500, 5000))
def test_the_global_batch_is_kept_and_a_fit_is_a_fit(batch, nodes, gpus, limit):
    fit = best_fit(recipe(batch_size=batch), nodes=nodes, gpus=gpus, limit_bytes=limit, memory_of=memory)
    workers = nodes * max(1, gpus)
    if isinstance(fit, str):
        assert batch % workers != 0 or batch < workers
        return
    assert fit.layout.batch_size == batch
    assert fit.fits == (memory(fit.layout).high_bytes <= limit)


@given(st.integers(1, 64), st.integers(850, 4000))
def test_bisection_finds_what_brute_force_finds(batch, limit):
    fit = best_fit(recipe(batch_size=batch), nodes=1, gpus=1, limit_bytes=limit, memory_of=memory)
    assert not isinstance(fit, str)
    for checkpointing in (False, True):
        sizes = [m for m in range(1, batch + 1) if batch % m == 0 and 800 + m * (10 if checkpointing else 100) <= limit]
        if sizes:
            assert (fit.layout.gradient_checkpointing, fit.layout.micro_batch_size) == (checkpointing, max(sizes))
            return
    assert not fit.fits


def test_an_indivisible_batch_names_the_nearest_that_can():
    answer = best_fit(recipe(batch_size=30), nodes=1, gpus=8, limit_bytes=10**9, memory_of=memory)
    assert answer == "batch_size 30 cannot be divided over 8 workers; the nearest that can is 32"


def test_replicas_come_before_shards_and_shards_before_checkpointing_is_not_tried_first():
    roomy = best_fit(recipe(batch_size=8), nodes=1, gpus=4, limit_bytes=10**6, memory_of=memory)
    tight = best_fit(recipe(batch_size=8), nodes=1, gpus=4, limit_bytes=500, memory_of=memory)
    assert not isinstance(roomy, str)
    assert not isinstance(tight, str)
    assert roomy.layout.sharding == "ddp"
    assert tight.layout.sharding == "fsdp"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_users_own_choices_are_kept(wanted):
    fit = best_fit(
        recipe(batch_size=8, micro_batch_size=2, gradient_checkpointing=wanted), nodes=1, gpus=1, limit_bytes=10**6, memory_of=memory
    )
    assert not isinstance(fit, str)
    assert (fit.layout.micro_batch_size, fit.layout.gradient_checkpointing) == (2, wanted)
