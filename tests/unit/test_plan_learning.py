"""What a plan takes from the session: the clouds that are set up, and the speed that collected jobs were measured at."""

from datetime import UTC, datetime

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.job import JobRef, JobState, Reading
from cloudtune.ledger.ledger import FILE_NAME, Launch
from cloudtune.planning.decide import decide
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import known_offers, learned
from tests.unit.planning_builders import offer, question, recipe


@pytest.fixture
def session(tmp_path):
    with Session(Settings(home=tmp_path / "home", cache=tmp_path), VirtualClock(datetime(2026, 11, 1, tzinfo=UTC))) as made:
        yield made


def finished(session, plan, seconds, number):
    """A job of ``plan`` in the ledger that took ``seconds`` for its steps."""
    name = f"t-{number}"
    launch = Launch(id=name, provider="local", recipe="t", plan=plan.model_dump_json(), request="{}", usd_per_hour=0.0, nodes=1)
    session.ledger.intend(launch)
    ref = JobRef("local", "this-machine", name)
    session.ledger.confirm(name, ref)
    session.ledger.record([(name, Reading(ref, JobState.SUCCEEDED, "done"))])
    session.ledger.append(name, "measured", {"train_seconds": seconds, "steps": plan.steps}, key="measured")


def test_without_a_ledger_nothing_is_learned_and_none_is_made(session):
    assert learned(session).runs == ()
    assert not (session.settings.home / FILE_NAME).exists()


def test_slow_runs_make_the_next_plan_longer(session):
    wanted = recipe(method={"type": "qlora"})
    before = decide(question(wanted, offer()))
    for number in range(4):
        finished(session, before, 3 * before.training_seconds, number)
    after = decide(question(wanted, offer(), calibration=learned(session)))
    assert after.training_seconds == pytest.approx(before.training_seconds)
    assert 1.5 * before.hours < after.hours < 3 * before.hours
    assert after.hours_high / after.hours < before.hours_high / before.hours
    other = decide(question(wanted, offer(gpu="A10G"), calibration=learned(session)))
    assert other.hours == decide(question(wanted, offer(gpu="A10G"))).hours


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
    assert learned(session).runs == ()
