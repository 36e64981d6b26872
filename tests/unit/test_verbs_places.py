"""Launching at places that have more than the least: a preflight, a fence, jobs that show late, and several places at once.

The jobs are scripted and time is virtual, as in test_verbs_scripted.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.errors import CloudtuneError, QuotaError, RejectedError, UnavailableError
from cloudtune.job import JobRef, JobState, JobView, LaunchId
from cloudtune.ledger.ledger import Launch
from cloudtune.planning.plan import Plan
from cloudtune.providers.base import Place, Request
from cloudtune.providers.registry import PROVIDERS
from cloudtune.providers.scripted import Fault, ScriptedJobs, scripted_place
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.jobs import ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.reconcile import WAIT_SECONDS, reconcile
from tests import builders

JOB = LaunchId("bot-abc")


@dataclass
class Objections:
    """A Preflight that has always the same to say."""

    problems: tuple[CloudtuneError, ...]
    asked: list[Plan] = field(default_factory=list)

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        self.asked.append(plan)
        return self.problems


@dataclass
class Shelf:
    """An Inventory."""

    names: tuple[str, ...]

    def inventory(self) -> Sequence[JobRef]:
        return [JobRef("local", "this-machine", name) for name in self.names]


@dataclass
class Gate:
    """A Fence. ``found``: the job that turns out to be there."""

    found: JobRef | None = None
    asked: list[LaunchId] = field(default_factory=list)

    def fence(self, launch_id: LaunchId) -> JobRef | None:
        self.asked.append(launch_id)
        return self.found


class Stage:
    """A session whose place ``scripted`` has what ``more`` says, beside the place ``elsewhere`` and our own, which have the least."""

    def __init__(self, folder: Path, submits: Sequence[Fault] = (), polls: Sequence[Fault] = (), **more: Any) -> None:
        self.clock = VirtualClock()
        self.jobs = ScriptedJobs(self.clock, faults={"submit": submits, "poll": polls})
        places = {name: scripted_place(ScriptedJobs(self.clock)) for name in PROVIDERS}
        places |= {"scripted": replace(scripted_place(self.jobs), **more), "elsewhere": _elsewhere(self.clock)}
        self.session = Session(Settings(folder / "home", folder / "home" / "cache"), self.clock, places=places)
        self.plan = builders.scripted_plan(folder)

    def launch(self, job: str | None = JOB) -> JobView:
        return launch(self.plan, session=self.session, launch_id=job)

    def intend(self) -> None:
        """What a launcher leaves behind that died before its submit."""
        self.session.ledger.intend(Launch(JOB, "scripted", "bot", "", ""))


def _elsewhere(clock: VirtualClock) -> Place:
    place = scripted_place(ScriptedJobs(clock))

    def build_request(*asked: Any) -> Request:
        return replace(place.build_request(*asked), provider="elsewhere")

    return replace(place, name="elsewhere", build_request=build_request)


@pytest.fixture
def stage(tmp_path):
    made: list[Stage] = []

    def make(*submits: Fault, **more: Any) -> Stage:
        made.append(Stage(tmp_path, submits, **more))
        return made[-1]

    yield make
    for each in made:
        each.session.close()


def test_what_the_preflight_finds_is_raised_at_once_all_together_and_nothing_is_begun(stage):
    check = Objections((QuotaError("no quota", hint="ask for more"), RejectedError("no bucket", hint="make one")))
    it = stage(preflight=check)
    with pytest.raises(QuotaError) as caught:
        it.launch()
    assert caught.value.hint == "ask for more; and 1 more: no bucket"
    assert (check.asked, it.session.ledger.views(), it.jobs.calls) == ([it.plan], [], [])


def test_data_out_of_reach_is_refused_before_anything_is_looked_at_or_staged(stage, tmp_path):
    check = Objections((RejectedError("no bucket", hint="make one"),))
    it = stage()
    plan = builders.scripted_plan(tmp_path, data="gs://theirs/rows.jsonl")
    plan = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"provider": "aws"})})
    places = {"aws": replace(it.session.place("aws"), preflight=check)}
    with Session(it.session.settings, it.clock, places=places) as session, pytest.raises(RejectedError) as caught:
        launch(plan, session=session)
    assert (caught.value.code, check.asked) == ("data-elsewhere", [])
    assert it.session.ledger.views() == []


def test_a_submit_that_did_not_arrive_is_over_as_soon_as_the_fence_stands(stage):
    """And nobody is sent back to a launch that is over."""
    gate = Gate()
    it = stage(Fault.UNAVAILABLE, fence=gate)
    with pytest.raises(UnavailableError) as caught:
        it.launch()
    assert gate.asked == [JOB]
    assert it.session.ledger.view(JOB).state is JobState.FAILED
    assert "goes on with" not in caught.value.hint
    assert it.launch(None).id != JOB


def test_a_job_that_the_fence_finds_is_confirmed(stage):
    ref = JobRef("scripted", "stage", JOB)
    it = stage(Fault.UNAVAILABLE, fence=Gate(ref))
    assert it.launch().ref == ref
    assert it.session.ledger.view(JOB).ref == ref


def test_a_place_whose_jobs_show_late_is_given_its_time(stage):
    it = stage(settle_seconds=3 * WAIT_SECONDS)
    it.intend()
    it.clock.sleep(3 * WAIT_SECONDS - 1)
    assert reconcile(it.session).waiting == (JOB,)
    it.clock.sleep(1)
    assert reconcile(it.session).abandoned == (JOB,)


def test_a_place_with_a_fence_is_given_the_time_that_its_jobs_take_to_show(stage):
    gate = Gate()
    it = stage(fence=gate, settle_seconds=90.0)
    it.intend()
    it.clock.sleep(89)
    assert reconcile(it.session).waiting == (JOB,)
    assert gate.asked == []
    it.clock.sleep(1)
    assert reconcile(it.session).abandoned == (JOB,)
    assert gate.asked == [JOB]


def test_an_unsettled_launch_at_one_place_keeps_nobody_from_another(stage):
    it = stage(Fault.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        it.launch()
    it.plan = it.plan.model_copy(update={"chosen": it.plan.chosen.model_copy(update={"provider": "elsewhere"})})
    view = it.launch(None)
    assert (view.provider, view.id != JOB) == ("elsewhere", True)
    assert status(JOB, it.session).state is JobState.SUBMITTING


def test_a_place_that_does_not_answer_hides_no_job_of_another(stage):
    it = stage(polls=[Fault.UNAVAILABLE])
    it.launch()
    it.plan = it.plan.model_copy(update={"chosen": it.plan.chosen.model_copy(update={"provider": "elsewhere"})})
    it.launch(LaunchId("bot-def"))
    it.session.place("elsewhere").jobs.poll([JobRef("scripted", "stage", "bot-def")])  # so that its next word is another one
    shown = ps(it.session)
    assert [(view.id, view.state) for view in shown] == [(JOB, JobState.QUEUED), ("bot-def", JobState.STARTING)]
    assert [problem.retryable for problem in shown.problems] == [True]


def test_only_jobs_that_the_ledger_has_lost_are_adopted(stage):
    it = stage()
    it.launch()
    local = replace(it.session.place("local"), inventory=Shelf((JOB, "lost-abc")))
    with Session(it.session.settings, it.clock, places={**dict.fromkeys(PROVIDERS, it.session.place("aws")), "local": local}) as session:
        before = session.ledger.launch(JOB)
        assert reconcile(session, adopt=True).adopted == ("lost-abc",)
        assert reconcile(session, adopt=True).adopted == ()
        assert session.ledger.launch(JOB) == before
