"""The planner learns speed from the ledger: a collected job's measured seconds correct the next plan of the same kind."""

from datetime import UTC, datetime

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.job import JobRef, JobState, Reading
from cloudtune.ledger.ledger import FILE_NAME, Launch
from cloudtune.planning.decide import decide
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import learned
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


def test_a_ledger_in_trouble_does_not_stop_a_plan(session):
    session.settings.home.mkdir(parents=True)
    (session.settings.home / FILE_NAME).write_bytes(b"no database" * 1000)
    assert learned(session).runs == ()
