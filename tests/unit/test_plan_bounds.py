"""The closed form holds every replay within the factors that the planner trusts, over a grid of models, methods and layouts."""

from pathlib import Path

import pytest

from cloudtune.memory.device import Device
from cloudtune.memory.reckon import at_least_bytes, estimate_memory, job_of, live_peak
from cloudtune.models.registry import find_shape
from cloudtune.planning.reckoner import LOOKED, UNCALIBRATED, fits, most_after_look
from cloudtune.planning.resolve import before_layout
from cloudtune.planning.rough import rough_bytes
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import GIB
from tests.builders import estimate

CARD = Device.cuda("L4", total_bytes=22 * GIB, compute_capability=(8, 9))
MODELS = ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Qwen/Qwen3-4B", "meta-llama/Llama-3.1-8B", "google/gemma-2-2b")
GRID = [
    (base, method, checkpointing, micro, gpus)
    for base in MODELS
    for method in ("full", "lora", "qlora")
    for checkpointing in (False, True)
    for micro, gpus in ((1, 1), (8, 1), (2, 4))
]


def job(base, method, checkpointing, micro, gpus):
    """What the reckonings are asked."""
    shape = find_shape(base, base_dir=Path())
    recipe = before_layout(
        Recipe.model_validate(
            {
                "version": 1,
                "name": "t",
                "model": {"base": base},
                "method": {"type": method},
                "data": {"train": [{"path": "o/x"}], "max_length": 1024},
            }
        ),
        shape,
    )
    layout = Layout(
        gpus=gpus,
        micro_batch_size=micro,
        gradient_accumulation_steps=1,
        gradient_checkpointing=checkpointing,
        sharding="fsdp" if gpus > 1 else "none",
    )
    return recipe, shape, layout, CARD


@pytest.mark.parametrize("case", [*GRID[::7], *[pytest.param(case, marks=pytest.mark.full) for case in GRID]], ids=str)
def test_the_closed_form_is_within_its_factors(case):
    asked = job(*case)
    low, high = UNCALIBRATED
    assert 1 / low <= estimate_memory(*asked).high_bytes / rough_bytes(*asked) <= high


@pytest.mark.parametrize("case", [*GRID[::7], *[pytest.param(case, marks=pytest.mark.full) for case in GRID]], ids=str)
def test_a_look_is_never_above_the_replay_nor_far_below_it(case):
    asked = job(*case)
    seen = at_least_bytes(*asked)
    assert seen <= estimate_memory(*asked).high_bytes <= most_after_look(asked[0], seen) <= LOOKED * seen
    assert live_peak(job_of(*asked)) == estimate_memory(*asked).allocated_bytes


def test_what_fits_fits_with_its_margin():
    """The peak alone is below the card; with what it may be off by it is not."""
    reckoned = estimate()
    between = (reckoned.peak_bytes + reckoned.high_bytes) // 2
    assert reckoned.peak_bytes < between < reckoned.high_bytes
    assert not fits(reckoned, Device.cuda("L4", total_bytes=between))
    assert fits(reckoned, Device.cuda("L4", total_bytes=reckoned.high_bytes))
