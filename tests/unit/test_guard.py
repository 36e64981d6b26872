"""The guard: what ends a run, and above all what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.job import JobRef, JobState, JobView, LaunchId, Progress
from cloudtune.verbs.guard import Continue, Stop, guard
from tests import builders

VIEW = JobView(LaunchId("bot-abc"), JobState.RUNNING, "aws", "bot", ref=JobRef("aws", "us-east-1", "bot-abc"))
NAN = float("nan")


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    """Two dollars an hour, at most one dollar, at most 0.75 h."""
    compute = {"provider": "local", "max_hours": 0.75}
    return builders.plan(tmp_path_factory.mktemp("plan"), usd_per_hour=2.0, budget={"max_usd": 1.0}, compute=compute)


def running(losses=(), step=10, **more):
    return replace(VIEW, progress=Progress("train", step=step, losses=tuple(losses), **more))


def reason(view, plan, quiet=0.0):
    verdict = guard(view, plan, quiet_seconds=quiet)
    return verdict.reason if isinstance(verdict, Stop) else ""


def test_a_healthy_run_goes_on(paid):
    assert guard(running([2.0, 1.5, 1.2], elapsed_seconds=600.0), paid) == Continue()
    assert guard(VIEW, paid) == Continue()


def test_the_budget_ends_a_run(paid):
    assert "budget of $1.00" in reason(replace(VIEW, billable_seconds=1900.0), paid)
    assert reason(replace(VIEW, billable_seconds=1790.0), paid) == ""
    assert "budget" in reason(running(elapsed_seconds=1900.0), paid), "without a bill the trainer's own clock counts"


def test_every_machine_of_a_job_counts_against_the_budget(paid):
    two = paid.model_copy(update={"layout": replace(paid.layout, nodes=2)})
    assert "($1.06)" in reason(replace(VIEW, billable_seconds=950.0), two)
    assert reason(replace(VIEW, billable_seconds=890.0), two) == ""


def test_the_providers_own_limit_comes_first(paid):
    assert reason(replace(VIEW, billable_seconds=1801.0), paid) == ""


def test_max_hours_ends_a_run(paid):
    free = paid.model_copy(update={"chosen": paid.chosen.model_copy(update={"usd_per_hour": 0.0})})
    assert "max_hours" in reason(replace(VIEW, billable_seconds=2900.0), free)
    assert reason(replace(VIEW, billable_seconds=2700.0), free) == ""


def test_losses_that_are_no_numbers_end_a_run(paid):
    assert "nan" in reason(running([1.0, NAN, NAN, NAN]), paid)
    assert "inf" in reason(running([1.0, float("inf"), NAN, float("inf")]), paid)
    assert reason(running([NAN, NAN, NAN, 1.0]), paid) == "", "it came back"
    assert reason(running([1.0, NAN, NAN]), paid) == "", "two can be skipped steps"


def test_divergence_ends_a_run_only_when_it_lasts_and_is_large(paid):
    good = [2.0 - 0.05 * i for i in range(20)]
    assert "rose from 1.05" in reason(running([*good, *[7.0] * 20]), paid)
    assert reason(running([*good, *[7.0] * 19]), paid) == "", "not long enough"
    assert reason(running([*good, *[7.0] * 10, 2.5, *[7.0] * 9]), paid) == "", "it came down once"
    assert reason(running([*good, *[2.9] * 20]), paid) == "", "not far enough"
    assert reason(running([0.1] * 20 + [1.9] * 20), paid) == "", "a small loss may grow many times over"
    assert reason(running([9.0] * 40), paid) == "", "it never was better"


def test_silence_ends_a_run_only_after_many_steps_time(paid):
    assert reason(running(step=10, elapsed_seconds=100.0), paid, quiet=29 * 60) == ""
    assert "30 min 01 s" in reason(running(step=10, elapsed_seconds=100.0), paid, quiet=30 * 60 + 1)
    slow = running(step=2, elapsed_seconds=1200.0)
    assert reason(slow, paid, quiet=3600.0) == "", "a step takes ten minutes"
    assert reason(slow, paid, quiet=12100.0) != ""
    assert reason(running(step=None), paid, quiet=3600.0) == "", "it may still be fetching the model"
    assert reason(running(step=None), paid, quiet=7300.0) != ""


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
def test_only_a_running_job_is_stopped(paid, state):
    view = replace(running([NAN] * 5), state=state, billable_seconds=1e9)
    assert guard(view, paid, quiet_seconds=1e9) == Continue()


def test_a_stop_is_asked_for_once(paid):
    assert guard(replace(running([NAN] * 5), stop_requested=True), paid) == Continue()


@given(
    losses=st.lists(st.floats(0.1, 12), max_size=48),
    elapsed=st.floats(0, 1700),
    quiet=st.floats(0, 1700),
    step=st.integers(1, 1000),
)
def test_ordinary_numbers_stop_a_run_for_divergence_only(paid, losses, elapsed, quiet, step):
    verdict = guard(running(losses, step=step, elapsed_seconds=elapsed), paid, quiet_seconds=quiet)
    assert verdict == Continue() or "loss rose" in verdict.reason
