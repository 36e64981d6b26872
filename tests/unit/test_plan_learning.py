"""What a plan takes from the session: the clouds that are set up, and the speed that collected jobs were measured at."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.job import JobRef, JobState, Reading
from cloudtune.ledger.ledger import FILE_NAME, Launch
from cloudtune.memory.device import Device
from cloudtune.memory.evidence import LEAST_BYTES, Evidence
from cloudtune.memory.measured import CAUTION, NARROWEST, NOTHING, MemoryRun, class_of, measurements
from cloudtune.planning.calibrate import Calibration
from cloudtune.planning.decide import decide
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.units import GIB
from cloudtune.verbs.market import known_offers
from cloudtune.verbs.plan import learned
from tests.unit.planning_builders import offer, question, recipe


@pytest.fixture
def session(tmp_path):
    with Session(Settings(home=tmp_path / "home", cache=tmp_path), VirtualClock(datetime(2026, 11, 1, tzinfo=UTC))) as made:
        yield made


def finished(session, plan, seconds, number, peak=None):
    """A job of ``plan`` in the ledger that took ``seconds`` for its steps and needed ``peak`` bytes of the device."""
    name = f"t-{number}"
    launch = Launch(id=name, provider="local", recipe="t", plan=plan.model_dump_json(), request="{}", usd_per_hour=0.0, nodes=1)
    session.ledger.intend(launch)
    ref = JobRef("local", "this-machine", name)
    session.ledger.confirm(name, ref)
    session.ledger.record([(name, Reading(ref, JobState.SUCCEEDED, "done"))])
    memory = {"device": "cuda", "device_bytes": peak} if peak else {"device": "cuda"}
    session.ledger.append(name, "measured", {"train_seconds": seconds, "steps": plan.steps, "peak_memory": memory}, key="measured")


def test_without_a_ledger_nothing_is_learned_and_none_is_made(session):
    assert learned(session) == (Calibration(), NOTHING)
    assert not (session.settings.home / FILE_NAME).exists()


def test_slow_runs_make_the_next_plan_longer(session):
    wanted = recipe(method={"type": "qlora"})
    before = decide(question(wanted, offer()))
    for number in range(4):
        finished(session, before, 3 * before.training_seconds, number)
    after = decide(question(wanted, offer(), calibration=learned(session)[0]))
    assert after.training_seconds == pytest.approx(before.training_seconds)
    assert 1.5 * before.hours < after.hours < 3 * before.hours
    assert after.hours_high / after.hours < before.hours_high / before.hours
    other = decide(question(wanted, offer(gpu="A10G"), calibration=learned(session)[0]))
    assert other.hours == decide(question(wanted, offer(gpu="A10G"))).hours


PACKED = {"packing": True}


def test_runs_that_needed_what_was_predicted_narrow_the_margin(session):
    wanted = recipe(method={"type": "qlora"}, data=PACKED)
    before = decide(question(wanted, offer()))
    for number in range(3):
        finished(session, before, before.training_seconds, number, peak=round(before.memory.peak_bytes * 0.98))
    measured = learned(session)[1]
    (seen,) = measured.seen
    assert (seen.kind, seen.runs, seen.worst) == (("L4", "qlora/nf4", False), 3, 0.0)
    after = decide(question(wanted, offer(), measured=measured))
    assert after.memory.peak_bytes == before.memory.peak_bytes
    assert after.memory.error_bar < before.memory.error_bar
    assert after.memory.error_bar == pytest.approx(max(before.memory.error_bar / 2, LEAST_BYTES / before.memory.peak_bytes, NARROWEST))
    assert "3 of your own runs" in after.memory.evidence
    other = decide(question(wanted, offer(gpu="A10G"), measured=measured))
    assert other.memory == decide(question(wanted, offer(gpu="A10G"))).memory
    # Several workers keep more on each GPU than one: what one needed says nothing of them.
    several = replace(before.layout, gpus=2, sharding="ddp")
    assert class_of(before.resolved, several, "L4") != seen.kind
    assert class_of(before.resolved, before.layout, "L4") == seen.kind


def test_no_number_of_runs_makes_a_margin_vanish():
    plan = decide(question(recipe(), offer()))
    kind = class_of(plan.resolved, plan.layout, "L4")
    many = measurements(MemoryRun(kind, predicted=1000, measured=990, fair=True) for _ in range(10_000))
    proof = many.judge(Evidence(0.3, "published"), plan.resolved, plan.layout, Device.cuda("L4", total_bytes=22 * GIB))
    assert proof.bar == NARROWEST


def test_a_run_that_needed_more_than_its_margin_widens_it(session):
    wanted = recipe(method={"type": "qlora"}, data=PACKED)
    before = decide(question(wanted, offer()))
    finished(session, before, before.training_seconds, 1, peak=round(before.memory.peak_bytes * 1.2))
    after = decide(question(wanted, offer(), measured=learned(session)[1]))
    assert after.memory.error_bar == pytest.approx(CAUTION * 0.2, rel=0.01)
    assert "needed 20.0% more than predicted" in after.memory.evidence


def test_a_margin_that_grew_turns_a_machine_down_that_was_taken_before(session):
    wanted = recipe(method={"type": "qlora"}, data=PACKED, training={"gradient_checkpointing": True, "micro_batch_size": 1})
    roomy = decide(question(wanted, offer()))
    tight = offer(instance="ml.tight", memory_gib=roomy.memory.high_bytes * 1.01 / GIB)
    assert decide(question(wanted, tight, offer(instance="ml.two", usd_per_hour=2.0))).chosen.instance == "ml.tight"
    finished(session, roomy, roomy.training_seconds, 1, peak=round(roomy.memory.peak_bytes * 1.3))
    chosen = decide(question(wanted, tight, offer(instance="ml.two", usd_per_hour=2.0), measured=learned(session)[1])).chosen
    assert chosen.instance == "ml.two"


def test_short_rows_prove_nothing_but_an_overrun_counts_and_so_does_only_the_same_metric(session):
    wanted = recipe(method={"type": "qlora"})
    plan = decide(question(wanted, offer()))
    assert plan.data.longest_tokens < wanted.data.max_length
    finished(session, plan, plan.training_seconds, 1, peak=round(plan.memory.peak_bytes * 0.4))
    finished(session, plan, plan.training_seconds, 2)
    (seen,) = learned(session)[1].seen
    assert (seen.runs, seen.worst) == (0, 0.0)
    assert decide(question(wanted, offer(), measured=learned(session)[1])).memory == plan.memory


@pytest.mark.parametrize(
    ("given", "clouds"),
    [
        ({}, {"aws", "gcp"}),
        ({"aws_role": "arn:x"}, {"aws"}),
        ({"gcp_project": "p"}, {"gcp"}),
        ({"aws_role": "a", "gcp_project": "p"}, {"aws", "gcp"}),
    ],
)
def test_auto_compares_the_clouds_there_are_settings_for(tmp_path, given, clouds):
    made = Session(Settings(home=tmp_path, cache=tmp_path, **given), VirtualClock())
    assert {one.provider for one in known_offers(None, made)} == {"local", *clouds}
    assert {one.provider for one in known_offers("gcp", made)} == {"gcp"}
    assert {one.provider for one in known_offers("local", made)} == {"local"}


def test_a_ledger_in_trouble_does_not_stop_a_plan(session):
    session.settings.home.mkdir(parents=True)
    (session.settings.home / FILE_NAME).write_bytes(b"no database" * 1000)
    assert learned(session) == (Calibration(), NOTHING)
