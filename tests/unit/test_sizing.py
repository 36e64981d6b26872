"""Questions about a model and a card: methods side by side, limits exact at the boundary, the cards that come into question."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from cloudtune.errors import UsageError
from cloudtune.memory.device import Device
from cloudtune.memory.verdict import fits
from cloudtune.offers.offer import Gpu
from cloudtune.planning.decide import Question
from cloudtune.planning.plan import DataStats
from cloudtune.planning.resolve import before_layout
from cloudtune.show.sizing import explanation_lines, limit_lines, method_lines, traced_lines
from cloudtune.show.text import Page
from cloudtune.units import GIB, gib
from cloudtune.verbs.estimate import with_gpu
from cloudtune.verbs.market import named
from cloudtune.verbs.sizing import TracedSize, cards, every_device, lean_layout, limits, sizes
from tests.unit.memory_builders import recipe, shape
from tests.unit.planning_builders import offer

STATS = DataStats(rows=100, tokens=10_000, mean_tokens=100, longest_tokens=200, basis="stated")


def question(*offers, method=None, **fields):
    made = shape(num_hidden_layers=6, hidden_size=1024, intermediate_size=4096)
    asked = recipe(method or {"type": "lora"}, fused_loss="auto", batch_size=16, **fields)
    return Question(asked, ".", made, STATS, offers, None, "0", date(2026, 11, 25))


def test_methods_stand_side_by_side_on_the_smallest_card_that_holds_them() -> None:
    small, large = offer(instance="ml.small", memory_gib=2), offer(instance="ml.large", memory_gib=80, gpu="A100-80GB")
    found = sizes(question(small, large))
    assert [item.name for item in found.methods] == ["full", "LoRA", "8-bit", "QLoRA"]
    peaks = [item.memory.peak_bytes for item in found.methods]
    assert peaks == sorted(peaks, reverse=True)
    assert found.memory == found.methods[-1].memory
    assert found.method == "qlora"
    for item in found.methods:
        assert item.card is not None
        assert item.memory.high_bytes <= item.card.gpu_bytes
        assert (item.card.instance == "ml.small") == (item.memory.high_bytes <= 2 * GIB)
    assert {item.card.instance for item in found.methods} == {"ml.small", "ml.large"}
    text = "\n".join(method_lines(found, Page(100)))
    assert all(gib(item.memory.peak_bytes) in text for item in found.methods)


def test_what_no_single_card_holds_is_spread_or_said_to_fit_nowhere() -> None:
    many = offer(instance="ml.many", memory_gib=2, gpu_count=8, interconnect="NVSwitch 600 GB/s")
    full, *_, nf4 = sizes(question(many)).methods
    assert (full.card.count, full.card.instance) == (8, "ml.many")
    assert full.sharded.high_bytes <= 2 * GIB < full.memory.high_bytes
    assert nf4.card.count == 8
    tiny = sizes(question(offer(memory_gib=1)))
    assert tiny.methods[0].card is None
    assert "no machine" in "\n".join(method_lines(tiny, Page(100)))


@pytest.mark.parametrize("ask", [sizes, every_device], ids=["sizes", "every device"])
def test_a_card_that_cannot_run_the_recipe_is_no_card_that_is_too_small(ask) -> None:
    """Asked for alone it is refused, with the key that would allow it; beside another it is left out."""
    old, new = offer(instance="ml.old", gpu="T4", capability=7.5, memory_gib=16), offer(instance="ml.new", memory_gib=80)
    with pytest.raises(UsageError, match="T4 has no bfloat16") as caught:
        ask(question(old))
    assert caught.value.hint.endswith("--set model.dtype=float16")
    ask(question(old, new))
    assert [device.name for device in every_device(question(old, new))] == [new.gpu.name]


def test_no_gpu_at_all_is_said() -> None:
    with pytest.raises(UsageError, match="no machine here has a GPU"):
        every_device(question())


def test_cards_are_those_that_can_run_it_each_at_its_lowest_price() -> None:
    dear, cheap = offer(instance="ml.dear", usd_per_hour=9.0), offer(instance="ml.cheap", usd_per_hour=1.0)
    unknown, blocked = offer(instance="ml.unknown", usd_per_hour=None), offer(instance="ml.no", blocked="gone", gpu="H100-80GB")
    old = replace(offer(instance="ml.old"), gpu=Gpu("T4", 15 * GIB, 7.5, bf16=False))
    found = cards(recipe(), (unknown, dear, cheap, blocked, old))
    assert [card.instance for card, _ in found] == ["ml.cheap"]


@pytest.mark.parametrize("gib_of_card", [2, 6])
def test_the_limits_of_a_card_are_exact(gib_of_card: int) -> None:
    asked = question(offer(memory_gib=gib_of_card))
    card = Device.cuda("L4", total_bytes=gib_of_card * GIB)
    (found,) = limits(asked, [card], longest=True, largest_batch=True)
    ready, layout = before_layout(asked.recipe, asked.shape), lean_layout(asked.recipe)

    def runs(length: int, micro: int) -> bool:
        changed = ready.model_copy(update={"data": ready.data.model_copy(update={"max_length": length})})
        return fits(changed, asked.shape, replace(layout, micro_batch_size=micro), card).fits

    assert found.bound_by == ("memory" if gib_of_card == 2 else "positions")
    assert runs(found.max_length, 1)
    assert found.max_length <= asked.shape.max_positions  # a longer row has no place in the model, whatever the card holds
    if found.bound_by == "memory":
        assert not runs(found.max_length + 1, 1)
    else:
        assert found.max_length == asked.shape.max_positions
    assert runs(asked.recipe.data.max_length, found.micro_batch)
    assert not runs(asked.recipe.data.max_length, found.micro_batch + 1)
    text = "\n".join(limit_lines(asked.recipe, (found,), Page(100)))
    assert f"{found.max_length:,}" in text
    assert f"{found.micro_batch:,}" in text


def test_the_recipe_s_own_micro_batch_and_checkpointing_are_kept() -> None:
    given = recipe(batch_size=16, micro_batch_size=4, gradient_checkpointing=False)
    made = lean_layout(given)
    assert (made.micro_batch_size, made.gradient_accumulation_steps, made.gradient_checkpointing) == (4, 4, False)
    free = lean_layout(recipe(batch_size=16, micro_batch_size="auto", gradient_checkpointing="auto"))
    assert (free.micro_batch_size, free.gradient_accumulation_steps, free.gradient_checkpointing) == (1, 16, True)


def test_a_card_that_holds_nothing_says_none() -> None:
    (found,) = limits(question(), [Device.cuda("L4", total_bytes=GIB // 2)], longest=True, largest_batch=True)
    assert (found.max_length, found.micro_batch) == (0, 0)
    assert "none" in "\n".join(limit_lines(recipe(), (found,), Page(100)))


def test_a_gpu_is_named_by_its_whole_name_or_a_part_of_it() -> None:
    names = ("L4", "L40S", "A100-40GB", "A100-80GB")
    assert named("l4", names) == {"L4"}
    assert named("a100", names) == {"A100-40GB", "A100-80GB"}
    assert named("", names) == set(names)
    with pytest.raises(UsageError, match="no machine has a GPU called 'H100'"):
        with_gpu(question(offer()), "H100")


def test_a_trace_is_shown_beside_the_template_where_there_is_one() -> None:
    one = sizes(question(offer(memory_gib=80))).methods[1]
    traced = TracedSize(model="m", method="lora", memory=one.memory, layout=one.layout, device="L4", card=one.card, template=one.memory)
    assert "live memory +0.0%" in "\n".join(traced_lines(traced, Page(100)))
    alone = replace(traced, template=None, card=None)
    assert "no single GPU" in "\n".join(traced_lines(alone, Page(100)))
    assert explanation_lines(("one", "two"), Page())[1:] == ["  - one", "  - two"]
