"""The plan as a value: byte-equal, saved and read back, with fallbacks, advice, warnings, limits and what changed since."""

import math
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cloudtune.models.registry import find_shape
from cloudtune.offers.lookup import load_offers, relevant
from cloudtune.planning.decide import NoOfferFits, decide
from cloudtune.planning.drift import changes
from cloudtune.planning.duration import finish_seconds, startup_seconds
from cloudtune.planning.plan import DataStats, Plan
from cloudtune.planning.resolve import attention_kernel
from cloudtune.planning.trained import result_bytes
from cloudtune.planning.work import PACKED_FILL, amount_of_work
from cloudtune.recipe.load import load_text
from tests.unit.planning_builders import SHAPE, offer, question, recipe, this_machine

CLOUDS = (*load_offers("aws"), *load_offers("gcp"))


def test_the_same_question_gives_byte_equal_json():
    first, second = (decide(question(recipe(), *CLOUDS)).model_dump_json() for _ in range(2))
    assert first == second


def test_a_saved_plan_is_read_back_equal():
    plan = decide(question(recipe(), *CLOUDS))
    assert Plan.model_validate_json(plan.model_dump_json(indent=2)) == plan


def test_price_is_hours_times_rate_times_nodes_and_the_choice_leads_the_candidates():
    plan = decide(question(recipe(), *CLOUDS))
    assert abs(plan.usd - plan.hours * plan.chosen.usd_per_hour * plan.layout.nodes) < 0.005
    assert plan.usd_low <= plan.usd <= plan.usd_high
    assert plan.hours_low <= plan.hours <= plan.hours_high
    assert plan.candidates[0].instance == plan.chosen.instance
    assert plan.candidates[0].risk_usd == min(candidate.risk_usd for candidate in plan.candidates)
    assert plan.layout.batch_size == plan.recipe.training.batch_size
    assert plan.resolved.training.micro_batch_size == plan.layout.micro_batch_size


def test_no_auto_is_left_and_each_is_said():
    plan = decide(question(recipe(), *CLOUDS))
    dumped = plan.resolved.model_dump_json(exclude={"compute": {"provider"}})
    assert '"auto"' not in dumped
    assert any(word.startswith("micro_batch_size: ") for word in plan.decisions)


def test_a_budget_of_a_dollar_ends_with_advice_that_is_true():
    wanted = recipe(method={"type": "full"}, budget={"max_usd": 1.0}, training={"batch_size": 16})
    with pytest.raises(NoOfferFits) as caught:
        decide(question(wanted, *CLOUDS))
    error = caught.value
    assert error.exit_code == 3
    assert "the budget is $1.00" in error.what
    assert 1 <= len(error.advice) <= 3
    assert error.advice[0].effect in error.hint
    for item in error.advice:
        assert item.usd is not None
        if item.change.startswith("method.type="):
            changed = recipe(method={"type": item.change.partition("=")[2]}, budget={"max_usd": 1.0})
            assert decide(question(changed, *CLOUDS)).usd == item.usd


def test_the_smallest_change_that_makes_it_fit_is_found():
    wanted = recipe(training={"gradient_checkpointing": False, "micro_batch_size": 2})
    small = offer(gpu="L4", memory_gib=22)
    with pytest.raises(NoOfferFits) as caught:
        decide(question(wanted, small))
    first = caught.value.advice[0]
    assert first.change == "training.gradient_checkpointing=true"
    assert first.peak_bytes <= small.gpu.memory_bytes
    helped = recipe(training={"gradient_checkpointing": True, "micro_batch_size": 2})
    assert decide(question(helped, small)).usd == first.usd


def test_where_no_change_alone_is_enough_several_are_advised_together():
    wanted = recipe(training={"gradient_checkpointing": False, "micro_batch_size": 16}, data={"max_length": 8192})
    with pytest.raises(NoOfferFits) as caught:
        decide(question(wanted, offer(gpu="L4", memory_gib=22)))
    (only,) = caught.value.advice
    assert "training.gradient_checkpointing=true and training.micro_batch_size=auto" in only.change
    assert only.peak_bytes <= 22 * 2**30


@pytest.mark.parametrize("init", ["default", "gaussian", "pissa", "olora"])
def test_advice_is_a_recipe_that_is_accepted(init: str):
    """Quantised weights are nothing that PiSSA and OLoRA could start from: the advice names both keys then."""
    wanted = recipe(method={"type": "lora", "init": init}, data={"max_length": 600}, training={"micro_batch_size": 1})
    with pytest.raises(NoOfferFits) as caught:
        decide(question(wanted, offer(gpu="L4", memory_gib=12)))
    advised = [item.change for item in caught.value.advice if "method.type=qlora" in item.change]
    assert advised
    text = (
        f"version: 1\nname: advised\nmodel: {{base: {wanted.model.base}}}\nmethod: {{type: lora, init: {init}}}\n"
        "data: {train: [{path: ./rows.jsonl}], max_length: 600}\ntraining: {micro_batch_size: 1}\n"
    )
    for change in advised:
        assert load_text(text, overrides=change.split(" and ")).recipe.method.type == "qlora"


def test_a_card_that_is_only_too_dear_is_not_called_too_small():
    """The quickest layouts are within the budget and too large; a slower one fits, for more money. Money is the reason."""
    wanted = {"method": {"type": "qlora"}, "data": {"max_length": 600}}
    free = decide(question(recipe(**wanted), offer()))
    for part in (0.75, 0.9):
        with pytest.raises(NoOfferFits) as caught:
            decide(question(recipe(**wanted, budget={"max_usd": round(free.usd * part, 2)}), offer()))
        assert "would cost about $1.25, the budget is" in caught.value.what
        assert "GiB" not in caught.value.what
        # Limits are lifted where nothing else helps.
        assert caught.value.advice[-1].change == "no budget.max_usd"
        assert caught.value.advice[-1].usd == free.usd
    with pytest.raises(NoOfferFits) as late:
        decide(question(recipe(**wanted, compute={"max_hours": free.hours * 0.5}), offer()))
    assert "no compute.max_hours" in [item.change for item in late.value.advice]


def test_a_plan_says_what_would_halve_its_price():
    plan = decide(question(recipe(method={"type": "full"}, training={"batch_size": 16}), *CLOUDS))
    assert plan.usd > 1
    assert plan.advice
    assert all(item.usd <= plan.usd / 2 for item in plan.advice)


def test_fallbacks_run_the_very_layout_of_the_choice_at_the_same_place():
    plan = decide(question(recipe(), *CLOUDS))
    assert 1 <= len(plan.fallbacks) <= 4
    for item in plan.fallbacks:
        assert (item.provider, item.region, item.purchase) == (plan.chosen.provider, plan.chosen.region, plan.chosen.purchase)
        assert item.layout == plan.layout
        assert item.instance != plan.chosen.instance


def test_a_fallback_is_at_the_same_place_and_holds_the_layout():
    """The request names them, and the service takes whichever it has: nothing is planned again."""
    others = (
        offer(instance="ml.twin", usd_per_hour=1.1),
        offer(instance="ml.small", memory_gib=12, usd_per_hour=1.05),  # would do, with a smaller micro batch
        offer(instance="ml.far", region="eu-west-1", usd_per_hour=1.05),
        offer(instance="ml.spot", purchase="spot", usd_per_hour=1.05),
    )
    plan = decide(question(recipe(method={"type": "qlora"}, training={"batch_size": 32}), offer(), *others))
    assert {item.instance for item in plan.candidates} == {"ml.one", "ml.twin", "ml.small", "ml.far", "ml.spot"}
    assert [item.instance for item in plan.fallbacks] == ["ml.twin"]


def test_a_limit_that_may_end_the_run_is_said():
    wanted = {"method": {"type": "qlora"}}
    plan = decide(question(recipe(**wanted), offer()))
    tight = decide(question(recipe(budget={"max_usd": (plan.usd + plan.usd_high) / 2}, **wanted), offer()))
    assert any(word.startswith("the job is ended after") for word in tight.warnings)
    ample = decide(question(recipe(budget={"max_usd": plan.usd_high * 1.1}, **wanted), offer()))
    assert not any(word.startswith("the job is ended after") for word in ample.warnings)


def test_budget_and_hours_become_a_limit_on_the_server_by_the_dearest_price():
    spot = offer(purchase="spot", usd_per_hour=0.5, usd_per_hour_low=0.3, usd_per_hour_high=1.0)
    plan = decide(question(recipe(budget={"max_usd": 10.0}, method={"type": "qlora"}), spot))
    assert plan.chosen.usd_per_hour_high == 1.0
    assert plan.max_seconds == 36_000
    assert plan.usd_high == pytest.approx(plan.hours_high, abs=0.01)


def test_a_budget_pays_for_every_machine():
    eight = offer(gpu="A100", memory_gib=80, gpu_count=8, interconnect="NVSwitch 600 GB/s", network_gbps=400, usd_per_hour=10.0)
    wanted = {"compute": {"nodes": 2}, "training": {"batch_size": 64}}
    plan = decide(question(recipe(budget={"max_usd": 1000.0}, **wanted), eight))
    assert (plan.layout.nodes, plan.max_seconds) == (2, 50 * 3600)
    assert plan.usd_high == pytest.approx(plan.hours_high * 20, abs=0.01)
    with pytest.raises(NoOfferFits, match="would cost about"):
        decide(question(recipe(budget={"max_usd": plan.usd * 0.6}, **wanted), eight))


def test_start_up_and_the_upload_of_the_result_are_paid_for():
    wanted = recipe(method={"type": "full"}, training={"batch_size": 16})
    plan = decide(question(wanted, offer(gpu="H200", memory_gib=140, capability=9.0)))
    start = startup_seconds("aws", 2.0 * SHAPE.parameters, quantised=False, builtin=False)
    upload = finish_seconds("aws", result_bytes(wanted, SHAPE))
    assert upload.expected > 60
    assert plan.hours * 3600 == pytest.approx(plan.training_seconds + start.expected + upload.expected)


def test_evaluation_takes_its_time():
    def training_seconds(share: float | None) -> float:
        wanted = recipe(method={"type": "qlora"}, training={"max_steps": 100}, data={"eval": share})
        return decide(question(wanted, offer())).training_seconds

    assert training_seconds(None) < training_seconds(0.1) < training_seconds(0.3)


def test_the_age_of_a_price_is_said_past_90_days():
    fresh = decide(question(recipe(method={"type": "qlora"}), offer(), today=date(2026, 12, 1)))
    stale = decide(question(recipe(method={"type": "qlora"}), offer(), today=date(2027, 1, 1)))
    assert not any("days old" in word for word in fresh.warnings)
    assert "the price of ml.one is 96 days old; refresh it with: cloudtune catalog refresh" in stale.warnings


def test_boot_disks_are_in_the_price_by_the_hour():
    plan = decide(question(recipe(method={"type": "qlora"}), offer(disk_usd_per_gib_hour=0.001)))
    assert plan.chosen.usd_per_hour == pytest.approx(1.0 + 0.001 * plan.resolved.compute.disk_gib)


def test_the_choice_carries_the_providers_word_for_its_gpu():
    plan = decide(question(recipe(method={"type": "qlora"}), offer(accelerator="NVIDIA_L4")))
    assert plan.chosen.accelerator == "NVIDIA_L4"


def test_regions_and_providers_are_filtered_and_this_machine_is_everywhere():
    offers = (offer(), offer(region="eu-west-1"), offer(provider="gcp", region="us-central1"), this_machine())
    assert relevant(offers, None, ["us-east-1"]) == (offers[0], offers[3])
    assert relevant(offers, "gcp", ["us-central1"]) == (offers[2],)
    assert relevant(offers, "local", ["mars"]) == (offers[3],)


def test_an_unknown_region_is_said():
    with pytest.raises(NoOfferFits, match="no machine of aws is known in regions us-east-1"):
        decide(question(recipe(), provider="aws"))


def test_this_machine_costs_nothing():
    plan = decide(question(recipe(method={"type": "qlora"}, training={"max_steps": 2}), this_machine(), provider="local"))
    assert (plan.usd, plan.usd_high, plan.layout.gpus, plan.chosen.gpu) == (0, 0, 0, "cpu")


def test_what_changed_since_is_said_and_nothing_else():
    plan = decide(question(recipe(method={"type": "qlora"}, budget={"max_usd": 50.0}), offer())).model_copy(
        update={"inputs": {"./a.jsonl": "1:x", "./b.jsonl": "2:y"}}
    )
    same = dict(plan.inputs)
    assert changes(plan, [offer()], same, "0.1") == ()
    assert "costs $2.00 per hour" in changes(plan, [offer(usd_per_hour=2.0)], same, "0.1")[0]
    assert "above the budget" in changes(plan, [offer(usd_per_hour=500.0)], same, "0.1")[1]
    assert "no longer in the price tables" in changes(plan, [], same, "0.1")[0]
    assert "cannot be used any more" in changes(plan, [replace(offer(), blocked="gone")], same, "0.1")[0]
    assert "not known any more" in changes(plan, [offer(usd_per_hour=None)], same, "0.1")[0]
    assert changes(plan, [offer()], {"./a.jsonl": "1:z"}, "0.2") == (
        "./a.jsonl has changed since the plan was made: time and price may differ",
        "./b.jsonl is not there any more",
        "the plan was made by cloudtune 0.1, this is 0.2",
    )


def test_a_longer_length_than_the_model_knows_is_said():
    short = replace(SHAPE, max_positions=1024)
    plan = decide(question(recipe(method={"type": "qlora"}), offer(), shape=short))
    assert "data.max_length 2048 is longer than the model's 1024 positions" in plan.warnings


def test_an_unknown_price_is_called_unknown():
    plan = decide(question(recipe(method={"type": "qlora"}, compute={"instance": "ml.one"}), offer(usd_per_hour=None, price_date="")))
    assert any("is unknown: nothing is known of what this run will cost" in word for word in plan.warnings)


@pytest.mark.parametrize(("model", "kernel"), [("google/gemma-2-9b", "eager"), ("openai/gpt-oss-20b", "eager"), ("Qwen/Qwen3-8B", "sdpa")])
def test_auto_attention_is_one_that_the_model_has(model, kernel):
    shape = find_shape(model, base_dir=Path())
    assert attention_kernel(recipe(model={"base": model}), shape) == kernel
    assert attention_kernel(recipe(model={"base": model, "attention": "flash_attention_2"}), shape) == "flash_attention_2"


def test_steps_fill_up_across_epochs_as_the_trainer_counts_them():
    """1,000 rows in steps of 16, three times: 187.5 steps, the last one filled up; not 3 x 63."""
    stats = DataStats(rows=1_000, tokens=100_000, mean_tokens=100, longest_tokens=200, basis="stated")
    assert amount_of_work(recipe(training={"epochs": 3, "batch_size": 16}), stats).steps == 188
    held_out = amount_of_work(recipe(training={"epochs": 1, "batch_size": 10}, data={"eval": 0.2}), stats)
    assert (held_out.train_rows, held_out.eval_rows, held_out.steps) == (800, 200, 80)


def test_packed_rows_leave_a_rest_in_every_sequence():
    stats = DataStats(rows=1_000, tokens=1_024_000, mean_tokens=1_024, longest_tokens=2_000, basis="stated")
    packed = amount_of_work(recipe(training={"epochs": 1, "batch_size": 1}, data={"packing": True, "max_length": 2_048}), stats)
    assert packed.steps == math.ceil(500 / PACKED_FILL) > 500


@pytest.mark.parametrize(
    ("region", "instance", "basis"),
    [("us-central1", "g2-one", "listed"), ("europe-west4", "g2-one", "assumed"), ("us-central1", "a3-ultragpu-8g", "assumed")],
)
def test_the_disk_is_in_the_price_with_how_well_it_is_known_and_never_smaller_than_it_is_billed(region, instance, basis):
    given = recipe(method={"type": "qlora"}, compute={"regions": [region], "disk_gib": 60})
    asked = offer(provider="gcp", region=region, instance=instance, memory_gib=79, gpu="H100-80GB", disk_usd_per_gib_hour=0.001)
    chosen = decide(question(given, asked)).chosen
    assert (chosen.disk_usd_per_hour, chosen.usd_per_hour, chosen.disk_basis) == (0.1, 1.1, basis)
    free = decide(question(recipe(method={"type": "qlora"}), offer())).chosen
    assert (free.disk_usd_per_hour, free.disk_basis) == (0.0, "")


def test_a_guessed_network_is_said_only_where_machines_talk():
    def warnings(nodes, **known):
        given = recipe(method={"type": "qlora"}, compute={"nodes": nodes})
        return [text for text in decide(question(given, offer(**known))).warnings if "talk to each other" in text]

    assert warnings(1) == []
    assert warnings(2, network_gbps=100.0) == []
    assert "25 Gbit/s is assumed" in warnings(2)[0]
