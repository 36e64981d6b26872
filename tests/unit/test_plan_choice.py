"""The choice: the cheapest that fits by brute force, spot weighed by its risk, limits kept, reasons in plain sentences."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtune.offers.offer import Gpu
from cloudtune.planning.choose import Manner, order, weigh
from cloudtune.planning.reckoner import LOOKED, Reckoner, device_of
from cloudtune.planning.resolve import before_layout
from cloudtune.planning.risk import risk_usd
from cloudtune.units import GIB
from tests.unit.planning_builders import SHAPE, STATS, offer, recipe, rough_memory, simple_memory, this_machine

GPUS = ("L4", "A10G", "L40S", "A100-80GB", "H100-80GB")


@st.composite
def machines(draw):
    """One machine of a small catalog."""
    return offer(
        gpu=draw(st.sampled_from(GPUS)),
        memory_gib=draw(st.sampled_from([14, 17, 22, 40, 79])),
        gpu_count=draw(st.sampled_from([1, 2, 4, 8])),
        instance=f"ml.{draw(st.integers(0, 99))}",
        purchase=draw(st.sampled_from(["on_demand", "spot"])),
        usd_per_hour=draw(st.sampled_from([0.5, 1.0, 1.5, 4.0, 32.0, None])),
        host_memory_bytes=draw(st.sampled_from([8, 64, 512])) * GIB,
        interconnect=draw(st.sampled_from(["", "PCIe", "NVSwitch 600 GB/s"])),
    )


def live_memory(*arguments):
    """A floor of the simple memory, as far below it as a look may be."""
    return int(simple_memory(*arguments).high_bytes / LOOKED) + 1


def weighed(wanted, offers, *, rough=rough_memory, look=live_memory, **manner):
    ready = before_layout(wanted, SHAPE)
    return weigh(wanted, SHAPE, STATS, offers, Manner(**manner), reckoner=Reckoner(ready, SHAPE, simple_memory, rough, look))


def feasible_ways(weighing, one):
    """Every way on an offer that the simple memory lets run: the brute force, which knows neither bounds nor queues."""
    if one.usd_per_hour is None:
        return []
    device = device_of(one)
    found = []
    for nodes in (1, 2, 4, 8) if one.gpu_count >= 8 else (1,):
        ways = weighing.timing.ways(one, nodes)
        if not isinstance(ways, str):
            found += [way for way in ways if simple_memory(None, SHAPE, way.layout, device).high_bytes <= device.total_bytes]
        if found:
            break
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(machines(), min_size=1, max_size=6),
    st.sampled_from(["cheapest", "fastest"]),
    st.sampled_from([rough_memory, None]),
    st.sampled_from([live_memory, None]),
)
def test_the_choice_minimises_over_everything_that_fits(offers, objective, rough, look):
    weighing = weighed(recipe(budget={"objective": objective}, training={"batch_size": 16}), offers, rough=rough, look=look)
    best = [min(weighing.timing.rank(way) for way in ways) for one in offers if (ways := feasible_ways(weighing, one))]
    assert len(weighing.options) == len(best)
    assert len(weighing.options) + len(weighing.rejected) == len(offers)
    if best:
        assert weighing.timing.rank(weighing.options[0].way) == min(best)
    if objective == "cheapest" and best:
        assert weighing.options[0].way.risk_usd == min(option.way.risk_usd for option in weighing.options)


@settings(max_examples=40, deadline=None)
@given(machines(), st.integers(1, 100))
def test_more_memory_per_gpu_never_makes_an_offer_infeasible(one, more_gib):
    larger = replace(one, gpu=Gpu(one.gpu.name, one.gpu.memory_bytes + more_gib * GIB, one.gpu.compute_capability, bf16=True))
    small, large = weighed(recipe(), [one]), weighed(recipe(), [larger])
    assert len(large.options) >= len(small.options)
    if small.options:
        assert large.options[0].way.risk_usd <= small.options[0].way.risk_usd


@settings(max_examples=40, deadline=None)
@given(machines(), st.floats(0.01, 0.99))
def test_a_cheaper_identical_offer_is_never_beaten_by_a_dearer_one(one, part):
    if one.usd_per_hour is None:
        return
    cheaper = replace(one, instance="ml.zzz", usd_per_hour=one.usd_per_hour * part)
    for offers in ([one, cheaper], [cheaper, one]):
        options = weighed(recipe(), offers).options
        assert not options or options[0].offer.instance == "ml.zzz"


@settings(max_examples=30, deadline=None)
@given(st.lists(machines(), min_size=1, max_size=5, unique_by=lambda one: (one.instance, one.purchase)), st.randoms())
def test_the_order_of_the_catalog_changes_nothing(offers, random):
    shuffled = list(offers)
    random.shuffle(shuffled)
    first, second = weighed(recipe(), offers), weighed(recipe(), shuffled)
    assert [option.candidate() for option in first.options] == [option.candidate() for option in second.options]


@settings(max_examples=40, deadline=None)
@given(st.lists(machines(), min_size=1, max_size=5), st.sampled_from([8, 12, 16, 30, 64]))
def test_every_option_keeps_the_global_batch_and_its_price_is_hours_times_rate(offers, batch):
    weighing = weighed(recipe(training={"batch_size": batch}), offers)
    for option in weighing.options:
        assert option.layout.batch_size == batch
        exact = option.way.hours * option.offer.usd_per_hour * option.layout.nodes
        assert abs(option.way.usd - exact) < 0.005
        assert option.way.risk_usd >= option.way.usd - 1e-9


def test_bounds_decide_without_replays_and_the_rest_are_few():
    offers = [offer(instance=f"ml.{number}", gpu=gpu, memory_gib=gib) for number in range(20) for gpu, gib in (("L4", 22), ("A100", 79))]
    exact = weighed(recipe(training={"batch_size": 64}), offers, rough=rough_memory)
    assert exact.reckoner.replays <= 15


def test_first_only_finds_the_same_choice():
    offers = [offer(instance=f"ml.{number}", usd_per_hour=1 + number / 10) for number in range(10)]
    whole, first = weighed(recipe(), offers), weighed(recipe(), offers, first_only=True)
    assert first.options[0].candidate() == whole.options[0].candidate()


def test_what_does_not_fit_says_what_it_needs_and_what_there_is():
    wanted = recipe(training={"gradient_checkpointing": False, "micro_batch_size": 4})
    (exact,) = weighed(wanted, [offer(memory_gib=22)], rough=None, look=None).rejected
    assert exact.reason == "needs 32.0 GiB, has 22.0 GiB usable"
    assert (exact.needs_bytes, exact.has_bytes) == (32 * GIB, 22 * GIB)
    (pruned,) = weighed(wanted, [offer(memory_gib=4)]).rejected
    assert pruned.reason == "needs at least 17.8 GiB, has 4.00 GiB usable"


@pytest.mark.parametrize(
    ("change", "more", "sentence"),
    [
        ({}, {"usd_per_hour": None, "price_date": ""}, "its price is unknown; it is only taken when the recipe names it"),
        ({}, {"blocked": "sold out for ever"}, "sold out for ever"),
        ({"compute": {"instance": "ml.two"}}, {}, "the recipe names ml.two"),
        ({"compute": {"purchase": "spot"}}, {}, "the recipe wants spot"),
        ({"budget": {"max_usd": 0.01}}, {}, "would cost about"),
        ({"compute": {"max_hours": 0.01}}, {}, "would take about"),
        ({"training": {"save_steps": 9_999}}, {"purchase": "spot"}, "spot needs checkpoints"),
        ({"training": {"batch_size": 3}}, {"gpu_count": 2}, "batch_size 3 cannot be divided over 2 workers; the nearest that can is 4"),
        ({}, {"host_memory_bytes": 4 * GIB}, "of host memory to load the model, has 4.00 GiB"),
    ],
)
def test_every_other_reason_is_one_plain_sentence(change, more, sentence):
    (reason,) = weighed(recipe(**change), [replace(offer(), **more)]).rejected
    assert sentence in reason.reason
    assert "\n" not in reason.reason
    assert reason.needs_bytes is None


def test_bfloat16_is_asked_of_the_card():
    old = replace(offer(), gpu=Gpu("T4", 79 * GIB, 7.5, bf16=False))
    assert "bfloat16" in weighed(recipe(), [old]).rejected[0].reason
    allowed = recipe(model={"base": "meta-llama/Llama-3.1-8B", "dtype": "float16"})
    assert weighed(allowed, [old]).options


def test_an_unknown_price_is_taken_when_named():
    unpriced = offer(usd_per_hour=None, price_date="")
    named = weighed(recipe(compute={"instance": "ml.one"}), [unpriced])
    assert named.options[0].offer is unpriced
    limited = weighed(recipe(compute={"instance": "ml.one"}, budget={"max_usd": 5.0}), [unpriced])
    assert limited.rejected[0].reason == "its price is unknown, so budget.max_usd cannot be kept"


def test_a_slow_cpu_is_only_taken_when_somebody_names_the_provider():
    assert "without a GPU" in weighed(recipe(), [this_machine()]).rejected[0].reason
    assert weighed(recipe(), [this_machine()], named_provider=True).options


def test_risk_turns_a_slightly_cheaper_spot_machine_down_and_a_much_cheaper_one_not():
    steady = offer(instance="ml.steady")
    slightly = weighed(recipe(), [steady, offer(instance="ml.spot", purchase="spot", usd_per_hour=0.999)])
    clearly = weighed(recipe(), [steady, offer(instance="ml.spot", purchase="spot", usd_per_hour=0.4)])
    assert slightly.options[0].offer.instance == "ml.steady"
    assert clearly.options[0].offer.instance == "ml.spot"


def test_rare_checkpoints_make_spot_riskier():
    spot = offer(purchase="spot")
    often = weighed(recipe(training={"save_steps": 5}), [spot]).options[0]
    rarely = weighed(recipe(training={"save_steps": 100}), [spot]).options[0]
    assert often.way.usd == rarely.way.usd
    assert often.way.risk_usd < rarely.way.risk_usd


def test_an_interruption_costs_half_an_interval_and_another_start_up():
    """Of a run of ten hours at 0.15 interruptions an hour: 10 USD x (1 + 0.15 x (0.5 h / 2 + 0.25 h))."""
    assert risk_usd(10.0, 10.0, purchase="spot", interval_seconds=1800, restart_seconds=900) == 10.75
    assert risk_usd(10.0, 10.0, purchase="on_demand", interval_seconds=1800, restart_seconds=900) == 10.0


def test_equal_offers_are_ordered_by_name():
    offers = [offer(instance=name) for name in ("ml.c", "ml.a", "ml.b")]
    weighing = weighed(recipe(), offers)
    assert [option.offer.instance for option in weighing.options] == ["ml.a", "ml.b", "ml.c"]
    assert sorted(weighing.options, key=lambda option: order(weighing.timing, option)) == list(weighing.options)


def test_several_machines_only_where_one_is_too_small():
    eight = offer(gpu="A100", memory_gib=0.9, gpu_count=8, interconnect="NVSwitch 600 GB/s", network_gbps=400)
    joined = weighed(recipe(training={"batch_size": 64}), [eight]).options[0]
    assert (joined.layout.nodes, joined.layout.sharding) == (2, "fsdp")
    roomy = weighed(recipe(training={"batch_size": 64}), [replace(eight, gpu=Gpu("A100", 40 * GIB, 8.0, bf16=True))]).options[0]
    assert roomy.layout.nodes == 1


def test_replicas_are_preferred_to_shards_and_shards_to_offload():
    def sharding(gib):
        layout = weighed(recipe(training={"batch_size": 16}), [offer(gpu_count=4, memory_gib=gib)]).options[0].layout
        return layout.sharding, layout.cpu_offload

    assert sharding(40) == ("ddp", False)
    assert sharding(8) == ("fsdp", False)
    assert sharding(2) == ("fsdp", True)


def test_a_budget_holds_at_the_dearest_price_of_a_range():
    spot = offer(purchase="spot", usd_per_hour=0.5, usd_per_hour_low=0.3, usd_per_hour_high=1.0)
    (option,) = weighed(recipe(), [spot]).options
    between = recipe(budget={"max_usd": round(option.way.usd * 1.5, 2)})
    assert "where the discount is small" in weighed(between, [spot]).rejected[0].reason
    assert weighed(recipe(budget={"max_usd": round(option.way.usd * 2.1, 2)}), [spot]).options
