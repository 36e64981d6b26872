"""The words of a job's life and their fold: ids, URLs, and what each event makes of a view."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.errors import UsageError
from cloudtune.job import (
    Event,
    JobRef,
    JobState,
    LaunchId,
    Progress,
    Reading,
    changed,
    fold,
    new_launch_id,
    parse_launch_id,
    reading_body,
    start,
)

ID = LaunchId("bot-abc")
REF = JobRef("local", "this-machine", "bot-abc")
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def event(kind, body=None, seconds=0):
    return Event(ID, kind, T0 + timedelta(seconds=seconds), body or {})


def reading(state, **more):
    return event("reading", reading_body(Reading(REF, state, state.value, **more)))


def after(*events):
    return fold(start(ID, "local", "bot"), events)


BEGUN = (event("intended", {"output_dir": "/runs"}), event("confirmed", {"ref": str(REF)}))


def test_launch_ids_are_legal_names_everywhere():
    name = "a" * 40
    made = {new_launch_id(name) for _ in range(200)}
    assert len(made) == 200
    assert all(len(each) <= 51 and parse_launch_id(each) == each for each in made)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a/b", "../a", "a" * 53, "a b", "a\n", "."])
def test_what_cannot_be_a_launch_id_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_launch_id(text)
    assert "1 to 52 of a-z, 0-9 and -" in caught.value.hint, "launch --id is for ids of one's own"


def test_a_job_url_comes_back_as_it_went():
    assert JobRef.parse(str(REF)) == REF
    for text in ("local:/a/b", "local://a", "http//", "local://a/b/c", "Local://a/b"):
        with pytest.raises(UsageError):
            JobRef.parse(text)


def test_the_ordinary_life():
    view = after(*BEGUN)
    assert (view.state, view.ref, view.output_dir, view.created) == (JobState.QUEUED, REF, "/runs", T0)
    view = fold(view, [reading(JobState.RUNNING, progress=Progress("train", step=3, losses=(2.0, 1.0)))])
    assert (view.state, view.progress.step, view.progress.losses) == (JobState.RUNNING, 3, (2.0, 1.0))
    view = fold(view, [reading(JobState.SUCCEEDED, exit_code=0, outputs="file:///x")])
    assert (view.state, view.exit_code, view.outputs, view.progress.step) == (JobState.SUCCEEDED, 0, "file:///x", 3)
    view = fold(view, [event("collected", {"to": "/runs/bot-abc"})])
    assert (view.state, view.collected_to, view.ended) == (JobState.COLLECTED, "/runs/bot-abc", True)


def test_terminal_states_never_change_back():
    for last in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED):
        ended = after(*BEGUN, reading(last))
        for later in JobState:
            assert fold(ended, [reading(later)]).state is last
        assert fold(ended, [event("stop_requested"), event("abandoned")]).state is last


def test_a_failed_job_stays_failed_when_its_remains_come_home():
    view = after(*BEGUN, reading(JobState.FAILED, message="out of memory"), event("collected", {"to": "/x"}))
    assert (view.state, view.collected_to, view.message) == (JobState.FAILED, "/x", "out of memory")


def test_a_requested_stop_shows_until_the_end():
    view = after(*BEGUN, event("stop_requested", {"reason": "budget"}), reading(JobState.RUNNING))
    assert (view.state, view.stop_reason) == (JobState.STOPPING, "budget")
    assert fold(view, [reading(JobState.STOPPED)]).state is JobState.STOPPED


def test_only_an_unconfirmed_launch_can_be_abandoned():
    assert after(BEGUN[0], event("abandoned", {"message": "gone"})).state is JobState.FAILED
    assert after(*BEGUN, event("abandoned", {"message": "gone"})).state is JobState.QUEUED


def test_an_interrupted_job_rests_until_it_is_resumed():
    view = after(*BEGUN, reading(JobState.INTERRUPTED, exit_code=75))
    assert view.ended
    assert not view.state.terminal
    assert not after(*BEGUN, reading(JobState.INTERRUPTED)).ended, "its provider starts it again by itself"
    again = fold(view, [event("resumed")])
    assert (again.state, again.exit_code, again.ended) == (JobState.QUEUED, None, False)
    assert fold(after(*BEGUN, reading(JobState.SUCCEEDED)), [event("resumed")]).state is JobState.SUCCEEDED


def test_confirming_late_does_not_hide_what_was_read():
    assert after(*BEGUN, reading(JobState.RUNNING), event("confirmed", {"ref": str(REF)})).state is JobState.RUNNING


def test_a_reading_that_does_not_say_where_and_how_long_takes_nothing_back():
    said = {"outputs": "s3://b/model/", "remains": "s3://b/", "billable_seconds": 60.0}
    view = after(*BEGUN, event("reading", {"state": "running", **said}), event("reading", {"state": "interrupted"}))
    assert view.state is JobState.INTERRUPTED
    assert (view.outputs, view.remains, view.billable_seconds) == tuple(said.values())


def test_a_reading_is_new_when_something_happened_and_not_when_time_passed():
    def digest(**more):
        return changed(reading_body(Reading(REF, JobState.RUNNING, "r", **more)))

    base = digest(progress=Progress("train", step=1, tokens_per_second=5.0))
    assert digest(progress=Progress("train", step=1, tokens_per_second=9.0), at=T0, billable_seconds=7.0) == base
    assert digest(progress=Progress("train", step=2)) != base
    assert digest(progress=Progress("eval", step=1)) != base
    long = {digest(progress=Progress("train", step=step, total_steps=100_000)) for step in range(0, 100_000, 7)}
    assert 190 <= len(long) <= 210, "a long run is a few hundred events"
    assert digest(message="x", progress=Progress("train", step=1)) != base


states = st.sampled_from(list(JobState)).map(reading)
others = st.sampled_from([*BEGUN, event("stop_requested"), event("abandoned"), event("resumed"), event("collected"), event("note")])


@given(st.lists(states | others, max_size=30), st.integers(0, 30))
def test_folding_in_two_parts_is_folding_at_once(events, cut):
    assert fold(after(*events[:cut]), events[cut:]) == after(*events)


@given(st.lists(states | others, max_size=30))
def test_once_ended_for_good_the_end_stays(events):
    seen = None
    view = start(ID, "local", "bot")
    for each in events:
        view = fold(view, [each])
        if seen is not None:
            assert view.state in (seen, JobState.COLLECTED)
        if view.state.terminal:
            seen = view.state
