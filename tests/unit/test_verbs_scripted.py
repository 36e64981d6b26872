"""The verbs against a scripted provider: faults, unknown words, guards, and a place without a fence. Time is virtual."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import replace

import pytest

from cloudtune.clock import SystemClock, VirtualClock
from cloudtune.errors import AuthError, RejectedError, UnavailableError, UsageError
from cloudtune.filelock import FileLock, held
from cloudtune.job import JobRef, JobState, LaunchId, Progress, Reading
from cloudtune.ledger.ledger import Launch
from cloudtune.providers.base import Request
from cloudtune.providers.scripted import ORDINARY, Fault, Scene, ScriptedJobs, ScriptedState
from cloudtune.verbs.cost import cost
from cloudtune.verbs.jobs import failure, ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.reconcile import WAIT_SECONDS, launching_lock, reconcile
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import atrack, track
from tests import builders

WORKING = Scene(ScriptedState.WORKING)


class Stage:
    """A session over a scripted provider and a virtual clock."""

    def __init__(self, folder, scenes=ORDINARY, faults=None, clock=None, **changes):
        self.clock = clock or VirtualClock()
        self.jobs = ScriptedJobs(self.clock, scenes, faults=faults)
        self.session = builders.scripted_session(folder / "home", self.jobs, self.clock)
        self.plan = builders.scripted_plan(folder, **changes)

    def launch(self, job="bot-abc"):
        return launch(self.plan, session=self.session, launch_id=job)

    def follow(self, job="bot-abc"):
        return list(track(job, session=self.session))


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(*scenes, faults=None, clock=None, **changes):
        made.append(Stage(tmp_path, scenes or ORDINARY, faults, clock, **changes))
        return made[-1]

    yield make
    for each in made:
        each.session.close()


def test_the_ordinary_life(stage):
    it = stage()
    it.launch()
    assert [view.state for view in it.follow()] == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]


def test_a_lost_reply_is_looked_up_and_never_repeated(stage):
    it = stage(faults={"submit": [Fault.LOST_REPLY]})
    assert it.launch().ref is not None
    assert it.jobs.calls.count("submit") == 1
    assert it.jobs.calls.count("find") == 1


def test_a_submit_that_did_not_arrive_stays_open_until_it_is_settled(stage):
    it = stage(faults={"submit": [Fault.UNAVAILABLE]})
    with pytest.raises(UnavailableError):
        it.launch()
    assert status("bot-abc", it.session).state is JobState.SUBMITTING
    it.clock.sleep(WAIT_SECONDS + 1)
    assert status("bot-abc", it.session).state is JobState.FAILED
    with pytest.raises(UsageError, match="given up"):
        it.launch()
    assert it.jobs.calls.count("submit") == 1


@pytest.mark.parametrize("fault", [Fault.LOGIN_EXPIRED, Fault.UNAVAILABLE])
@pytest.mark.parametrize("named", [True, False])
def test_the_same_command_goes_on_with_a_launch_that_was_left_open(stage, fault, named):
    """However late, when nobody has given it up meanwhile; with its first request, whatever the plan would be today."""
    it = stage(faults={"submit": [fault]})
    job = "bot-abc" if named else None
    with pytest.raises((AuthError, UnavailableError)) as caught:
        it.launch(job)
    (left,) = it.session.ledger.views(is_open=True)
    assert (left.ref, left.state) == (None, JobState.SUBMITTING)
    assert f"the same command again goes on with {left.id}" in caught.value.hint
    it.clock.sleep(10 * WAIT_SECONDS)
    first = it.session.ledger.launch(left.id).request
    it.plan = it.plan.model_copy(update={"hours": 99.0})
    assert it.launch(job).id == left.id
    assert len(it.session.ledger.views()) == 1
    assert it.session.ledger.launch(left.id).request == first
    assert it.follow(left.id)[-1].state is JobState.SUCCEEDED


def test_a_launch_that_had_arrived_is_found_by_the_same_command(stage):
    it = stage(faults={"submit": [Fault.LOST_REPLY], "find": [Fault.UNAVAILABLE]})
    with pytest.raises(UnavailableError):
        it.launch(None)
    view = it.launch(None)
    assert view.ref is not None
    assert it.jobs.calls.count("submit") == 1
    assert it.launch(None).id != view.id, "a launch that is settled is over: the command means another job"


@pytest.mark.parametrize("changes", [{"usd_per_hour": 99.0}, {"instance": "larger"}, {"region": "far"}, {"purchase": "spot"}, {"nodes": 2}])
def test_no_second_job_is_begun_beside_an_unsettled_launch_of_another_price_or_machine(stage, changes):
    """Nobody said yes to the first request this time, and the first launch may still become a job."""
    it = stage(faults={"submit": [Fault.UNAVAILABLE]})
    with pytest.raises(UnavailableError):
        it.launch(None)
    (left,) = it.session.ledger.views(is_open=True)
    layout = replace(it.plan.layout, nodes=changes.pop("nodes", 1))
    it.plan = it.plan.model_copy(update={"chosen": it.plan.chosen.model_copy(update=changes), "layout": layout})
    with pytest.raises(UsageError, match="not settled") as caught:
        it.launch(None)
    assert caught.value.code == "launch-begun"
    assert f"--id {left.id}" in caught.value.hint
    assert len(it.session.ledger.views()) == 1
    it.clock.sleep(WAIT_SECONDS + 1)
    assert reconcile(it.session).abandoned == (left.id,)
    assert it.launch(None).id != left.id


def test_another_recipes_open_launch_and_a_launcher_at_work_are_left_alone(stage):
    it = stage(faults={"submit": [Fault.LOGIN_EXPIRED]})
    with pytest.raises(AuthError):
        it.launch("bot-abc")
    other = it.plan.model_copy(update={"recipe_digest": "0" * 64})
    assert launch(other, session=it.session).id != "bot-abc"
    with held(launching_lock(it.session, LaunchId("bot-abc")), it.clock):
        assert it.launch(None).id != "bot-abc"


def test_a_clear_no_closes_the_launch(stage):
    it = stage(faults={"submit": [Fault.REJECTED]})
    with pytest.raises(RejectedError):
        it.launch()
    assert status("bot-abc", it.session).state is JobState.FAILED
    assert it.session.ledger.views(is_open=True) == []


def test_a_place_without_a_fence_is_given_time(stage):
    it = stage()
    it.session.ledger.intend(Launch(LaunchId("bot-abc"), "scripted", "bot", "", ""))
    assert reconcile(it.session).waiting == ("bot-abc",)
    it.clock.sleep(WAIT_SECONDS - 1)
    assert reconcile(it.session).waiting == ("bot-abc",)
    it.clock.sleep(1)
    assert reconcile(it.session).abandoned == ("bot-abc",)
    assert reconcile(it.session) == type(reconcile(it.session))()


def test_a_clock_that_was_set_back_leaves_no_launch_open(stage):
    it = stage()
    it.session.ledger.intend(Launch(LaunchId("bot-abc"), "scripted", "bot", "", ""))
    it.clock.jump(-86400)
    assert reconcile(it.session).abandoned == ("bot-abc",)


def test_a_launcher_at_work_is_left_alone(stage):
    """Between its intention and its confirmation nobody else settles the launch, however long it takes."""
    it = stage()
    it.session.ledger.intend(Launch(LaunchId("bot-abc"), "scripted", "bot", "", ""))
    it.clock.sleep(10 * WAIT_SECONDS)
    with held(launching_lock(it.session, LaunchId("bot-abc")), it.clock):
        assert reconcile(it.session).waiting == ("bot-abc",)
        assert "find" not in it.jobs.calls
        with pytest.raises(UsageError, match="being launched by another process"):
            it.launch()
    assert reconcile(it.session).abandoned == ("bot-abc",)


def gone_but_for_a_child(path, seconds=0.2):
    """A launcher that was killed while it started a process: for an instant that process holds the lock that it inherited."""
    lock = FileLock.try_acquire(path)
    child = subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep({seconds})"], pass_fds=[lock.fd])
    lock.release()
    return child


def test_a_launcher_that_died_while_it_started_a_process_is_settled_at_once(stage):
    it = stage(clock=SystemClock())
    it.session.ledger.intend(Launch(LaunchId("bot-abc"), "scripted", "bot", "", ""))
    it.jobs.submit(Request("scripted", LaunchId("bot-abc"), {}))
    child = gone_but_for_a_child(launching_lock(it.session, LaunchId("bot-abc")))
    assert reconcile(it.session).confirmed == ("bot-abc",)
    child.wait()


def test_the_same_command_goes_on_with_a_launch_whose_launcher_died_while_it_started_a_process(stage):
    it = stage(clock=SystemClock(), faults={"submit": [Fault.UNAVAILABLE]})
    with pytest.raises(UnavailableError):
        it.launch(None)
    (left,) = it.session.ledger.views(is_open=True)
    child = gone_but_for_a_child(launching_lock(it.session, left.id))
    assert it.launch(None).id == left.id
    child.wait()


@pytest.mark.parametrize("command", ["reconcile", "launch"])
def test_many_launchers_at_work_do_not_add_up_to_a_long_wait(stage, command):
    it = stage()
    with contextlib.ExitStack() as locks:
        for number in range(20):
            job = LaunchId(f"little-{number:03d}")
            it.session.ledger.intend(Launch(job, "scripted", it.plan.recipe.name, it.plan.model_dump_json(), ""))
            locks.enter_context(held(launching_lock(it.session, job), it.clock))
        began = it.clock.monotonic()
        if command == "reconcile":
            assert len(reconcile(it.session).waiting) == 20
        else:
            it.launch(None)
        assert 0 < it.clock.monotonic() - began < 0.6


@pytest.mark.parametrize("first_one", ["succeeds", "gives up"])
def test_a_second_launcher_of_the_same_id_sees_what_the_first_one_did(stage, monkeypatch, first_one):
    """It waited for the lock with what it knew before; what the first one left behind counts."""
    it = stage()
    job = LaunchId("bot-abc")
    first = FileLock.try_acquire(launching_lock(it.session, job))
    assert first is not None
    sleep = it.clock.sleep

    def meanwhile(seconds):
        sleep(seconds)
        if first.fd < 0:
            return
        it.session.ledger.intend(Launch(job, "scripted", "bot", it.plan.model_dump_json(), ""))
        if first_one == "succeeds":
            it.session.ledger.confirm(job, JobRef("scripted", "here", job))
        else:
            it.session.ledger.append(job, "abandoned", {"message": "no"}, key="abandoned")
        first.remove()

    monkeypatch.setattr(it.clock, "sleep", meanwhile)
    if first_one == "succeeds":
        assert it.launch().ref == JobRef("scripted", "here", job)
    else:
        with pytest.raises(UsageError, match="given up"):
            it.launch()
    assert "submit" not in it.jobs.calls


def test_a_job_that_did_arrive_is_confirmed(stage):
    it = stage(faults={"submit": [Fault.LOST_REPLY], "find": [Fault.UNAVAILABLE]})
    with pytest.raises(UnavailableError):
        it.launch()
    assert reconcile(it.session).confirmed == ("bot-abc",)
    assert it.follow()[-1].state is JobState.SUCCEEDED


def test_a_silent_provider_is_reported_and_its_jobs_shown_as_last_seen(stage):
    it = stage(WORKING, faults={"poll": [Fault.NONE, Fault.UNAVAILABLE]})
    it.launch()
    assert status("bot-abc", it.session).state is JobState.RUNNING
    listing = ps(it.session)
    assert [view.state for view in listing] == [JobState.RUNNING]
    assert [problem.code for problem in listing.problems] == ["unavailable"]


def test_tracking_waits_out_what_another_try_can_cure(stage):
    it = stage(faults={"poll": [Fault.THROTTLED, Fault.UNAVAILABLE, Fault.HANGS, Fault.LOST_REPLY]})
    it.launch()
    began = it.clock.monotonic()
    assert it.follow()[-1].state is JobState.SUCCEEDED
    assert it.clock.monotonic() - began > 2, "it waited longer after each"


def test_tracking_does_not_repeat_an_expired_login(stage):
    it = stage(faults={"poll": [Fault.LOGIN_EXPIRED]})
    it.launch()
    with pytest.raises(AuthError):
        it.follow()
    assert it.jobs.calls.count("poll") == 1


def test_an_unknown_word_of_the_provider_does_not_end_anything(stage):
    it = stage(WORKING, Scene("HYPERWORKING"), WORKING, Scene(ScriptedState.DONE))
    it.launch()
    views = it.follow()
    assert [view.state for view in views] == [JobState.RUNNING, JobState.UNKNOWN, JobState.RUNNING, JobState.SUCCEEDED]
    assert views[1].native_state == "HYPERWORKING"


def test_a_preempted_job_comes_back_by_itself(stage):
    it = stage(WORKING, Scene(ScriptedState.PREEMPTED), Scene(ScriptedState.BOOTING), WORKING, Scene(ScriptedState.DONE))
    it.launch()
    assert [view.state for view in it.follow()] == [
        JobState.RUNNING, JobState.INTERRUPTED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED,
    ]  # fmt: skip


class Forgetful(ScriptedJobs):
    """Denies every job in its first ``denials`` polls, as a list that lags."""

    denials = 0

    def poll(self, refs):
        readings = super().poll(refs)
        self.denials -= 1
        return readings if self.denials < 0 else [Reading(ref, JobState.LOST, "") for ref in refs]


@pytest.mark.parametrize(("denials", "end"), [(4, JobState.SUCCEEDED), (9, JobState.LOST)])
def test_a_job_that_is_denied_now_and_then_is_followed_on(tmp_path, denials, end):
    clock = VirtualClock()
    jobs = Forgetful(clock)
    jobs.denials = denials
    with builders.scripted_session(tmp_path / "home", jobs, clock) as session:
        launch(builders.scripted_plan(tmp_path), session=session, launch_id="bot-abc")
        assert list(track("bot-abc", session=session))[-1].state is end


def test_the_pause_grows_while_nothing_happens(stage):
    it = stage(*[WORKING] * 40, Scene(ScriptedState.DONE))
    it.launch()
    it.follow()
    assert 200 < it.clock.monotonic() < 420, "41 rounds of 0.5 s would be 20 s, of 10 s 410 s"


def test_a_fixed_interval_is_kept(stage):
    it = stage(*[WORKING] * 9, Scene(ScriptedState.DONE))
    it.launch()
    list(track("bot-abc", session=it.session, interval=3.0))
    assert it.clock.monotonic() == pytest.approx(27.0)


def nan_scenes():
    losses = tuple([1.0] + [float("nan")] * 3)
    return [Scene(ScriptedState.WORKING, progress=Progress("train", step=4, losses=losses))]


def test_the_guard_stops_a_run_whose_loss_is_no_number(stage):
    it = stage(*nan_scenes())
    it.launch()
    last = it.follow()[-1]
    assert last.state is JobState.STOPPED
    assert "the loss is nan" in last.stop_reason
    assert it.jobs.calls.count("stop") == 1


def test_the_guard_keeps_the_budget(stage):
    it = stage(*[Scene(ScriptedState.WORKING, billable_seconds=600.0 * n) for n in range(1, 99)], usd_per_hour=2.0, budget={"max_usd": 1.0})
    it.launch()
    last = it.follow()[-1]
    assert "budget of $1.00" in last.stop_reason


def test_a_hung_run_is_stopped_but_a_sleeping_laptop_stops_nothing(stage):
    hung = Scene(ScriptedState.WORKING, progress=Progress("train", step=4, elapsed_seconds=40.0))
    it = stage(hung, hung, Scene(ScriptedState.DONE))
    it.launch()
    views = track("bot-abc", session=it.session)
    next(views)
    it.clock.jump(9 * 3600)  # the lid was closed: wall time passed, nobody watched
    assert [view.state for view in views][-1] is JobState.SUCCEEDED
    other = stage(hung)
    other.launch("bot-def")
    assert "nothing has changed for 30 min" in other.follow("bot-def")[-1].stop_reason


def test_a_stop_that_was_never_delivered_is_delivered_by_the_next_tracker(stage):
    """The process that wrote the request to stop died before it told the provider."""
    it = stage(WORKING)
    it.launch()
    it.session.ledger.append(LaunchId("bot-abc"), "stop_requested", {"reason": "asked"})
    assert it.follow()[-1].state is JobState.STOPPED


def test_a_stop_that_did_not_reach_the_provider_is_delivered_later(stage):
    it = stage(WORKING, faults={"stop": [Fault.UNAVAILABLE]})
    it.launch()
    with pytest.raises(UnavailableError):
        stop("bot-abc", session=it.session)
    end = it.follow()[-1]
    assert (end.state, end.stop_reason) == (JobState.STOPPED, "asked by the user")


def test_the_same_command_resumes_a_job_that_was_interrupted_for_good(stage):
    it = stage(WORKING, Scene(ScriptedState.PREEMPTED, exit_code=75), WORKING, Scene(ScriptedState.DONE))
    it.launch()
    assert it.follow()[-1].state is JobState.INTERRUPTED
    resumed = it.launch()
    assert (resumed.state, resumed.exit_code) == (JobState.QUEUED, None)
    assert it.jobs.calls.count("submit") == 2
    assert it.follow()[-1].state is JobState.SUCCEEDED


def test_stopping_without_a_choice_of_grace(stage):
    it = stage(WORKING)
    it.launch()
    with pytest.raises(UsageError, match="its own grace"):
        stop("bot-abc", session=it.session, grace_seconds=5)
    assert stop("bot-abc", session=it.session).state is JobState.STOPPED


def test_a_failed_job_is_an_error_with_its_last_lines(stage):
    it = stage(WORKING, Scene(ScriptedState.BROKEN, message="CUDA out of memory\nlast line", exit_code=1))
    it.launch()
    error = failure(it.follow()[-1])
    assert (error.exit_code, error.what, error.log_tail) == (1, "CUDA out of memory", ("last line",))


def test_logs_are_read_by_page(stage):
    it = stage(*[WORKING] * 3, Scene(ScriptedState.DONE))
    it.launch()
    it.follow()
    assert [line.text for page in logs("bot-abc", session=it.session) for line in page.lines] == ["scene 0", "scene 1", "scene 2"]


def test_many_jobs_are_one_call(stage):
    it = stage()
    for number in range(5):
        it.launch(f"bot-{number}aa")
    before = it.jobs.calls.count("poll")
    list(track([f"bot-{number}aa" for number in range(5)], session=it.session))
    assert it.jobs.calls.count("poll") - before == 4


def test_the_async_iterator_can_be_left_and_taken_up(stage):
    it = stage(*[WORKING] * 5, Scene(ScriptedState.DONE))
    it.launch()

    async def first():
        views = atrack("bot-abc", session=it.session, interval=0.01)
        try:
            return await anext(views)
        finally:
            await views.aclose()

    assert asyncio.run(first()).state is JobState.RUNNING

    async def rest():
        return [view.state async for view in atrack("bot-abc", session=it.session, interval=0.01)]

    assert asyncio.run(rest())[-1] is JobState.SUCCEEDED


def test_costs_by_month_and_recipe(stage):
    it = stage(Scene(ScriptedState.DONE, billable_seconds=1800.0), usd_per_hour=4.0)
    it.launch("bot-aaa")
    it.follow("bot-aaa")
    it.clock.jump(40 * 86400)
    it.launch("bot-bbb")
    it.follow("bot-bbb")
    assert [(row.name, row.usd, row.hours) for row in cost(it.session, by="month").rows] == [("2026-01", 2.0, 0.5), ("2026-02", 2.0, 0.5)]
    by_recipe = cost(it.session, by="recipe")
    assert [(row.name, row.jobs, row.usd) for row in by_recipe.rows] == [("little", 2, 4.0)]
    assert by_recipe.total.usd == 4.0


def test_every_machine_of_a_job_is_in_its_costs(stage):
    it = stage(Scene(ScriptedState.DONE, billable_seconds=1800.0), usd_per_hour=4.0)
    it.plan = it.plan.model_copy(update={"layout": replace(it.plan.layout, nodes=3)})
    it.launch()
    it.follow()
    assert cost(it.session).total.usd == 6.0


def test_ps_shows_the_open_and_the_newest(stage):
    it = stage(Scene(ScriptedState.DONE))
    for number in range(30):
        it.launch(f"bot-{number:02d}")
    assert len(ps(it.session, all=True)) == 30
    recent = ps(it.session)
    assert [view.id for view in recent] == [f"bot-{number:02d}" for number in range(10, 30)]


def test_an_unknown_provider_lists_the_known(stage):
    with pytest.raises(UsageError) as caught:
        stage().session.place("azure")
    assert "aws, gcp" in caught.value.hint
