"""A local job's life with a stand-in trainer: launch, track, logs, stop, time limit, secrets, and finding jobs again."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace

import pytest

from cloudtune.errors import ProviderError, RejectedError, StagingError, UsageError
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.local.folder import job_folder
from cloudtune.providers.local.supervisor import Redactor
from cloudtune.verbs.collect import collect
from cloudtune.verbs.cost import cost
from cloudtune.verbs.jobs import find_job, ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import log_tail, logs
from cloudtune.verbs.reconcile import reconcile
from cloudtune.verbs.render import render
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import atrack, track
from tests import builders

LONG = ["--steps", "1000", "--pause", "0.05"]


def wait_step(job, session, step=2):
    for view in track(job, session=session, interval=0.05):
        if view.progress and (view.progress.step or 0) >= step:
            return view
    raise AssertionError("the job ended early")


def wait_ended(job, session):
    *_, last = track(job, session=session, interval=0.05)
    return last


def lines(job, session, **more):
    return [line.text for page in logs(job, session=session, **more) for line in page.lines]


def test_a_job_is_launched_followed_and_brought_home(tmp_path):
    heard = []
    with builders.session(tmp_path / "home", ["--steps", "5"]) as session:
        view = launch(builders.plan(tmp_path), session=session, progress=heard.append)
        assert heard[0] == "checking"
        assert heard[-1] == "submitting"
        assert str(view.ref) == f"local://this-machine/{view.id}"
        views = list(track(view.id, session=session))
        assert views[-1].state is JobState.SUCCEEDED
        assert views[-1].progress.step == 5
        assert views[-1].progress.losses[-1] == pytest.approx(0.4)
        assert lines(view.id, session) == [f"step {step} of 5" for step in range(1, 6)]
        collected = collect(view.id, session=session, to=tmp_path / "out")
        assert not collected.partial
        assert (tmp_path / "out/adapter/adapter.safetensors").read_bytes() == b"weights" * 1000
        assert [job.state for job in ps(session)] == [JobState.COLLECTED]


def test_one_process_tracks_many_jobs(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "4"]) as session:
        plan = builders.plan(tmp_path)
        ids = [launch(plan, session=session, launch_id=f"job{n}-abc").id for n in range(4)]
        seen = {}
        for view in track(ids, session=session, interval=0.05):
            seen.setdefault(view.id, []).append(view.state)
        assert list(seen) == ids
        assert all(states[-1] is JobState.SUCCEEDED for states in seen.values())


def test_the_async_iterator_sees_the_same(tmp_path):
    async def follow(session, job):
        ticks = 0

        async def heartbeat():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        beating = asyncio.create_task(heartbeat())
        states = [view.state async for view in atrack(job, session=session, interval=0.05)]
        beating.cancel()
        return states, ticks

    with builders.session(tmp_path / "home", ["--steps", "10"]) as session:
        view = launch(builders.plan(tmp_path), session=session)
        states, ticks = asyncio.run(follow(session, view.id))
    assert states[-1] is JobState.SUCCEEDED
    assert ticks >= 5, "the event loop was blocked"


def test_the_log_is_followed_and_taken_up_again_without_a_line_twice(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "30", "--pause", "0.03"]) as session:
        job = launch(builders.plan(tmp_path), session=session).id
        first, cursor = [], None
        for page in logs(job, session=session, follow=True):
            first += [line.text for line in page.lines]
            cursor = page.cursor
            if len(first) >= 5:
                break
        rest = lines(job, session, follow=True, cursor=cursor)
        assert first + rest == [f"step {n} of 30" for n in range(1, 31)]
        assert log_tail(status(job, session), session, 2) == ("step 29 of 30", "step 30 of 30")
        with pytest.raises(UsageError, match="not a log cursor"):
            lines(job, session, cursor="middle")


def test_a_torn_or_cut_log_is_read_sensibly(tmp_path):
    with builders.session(tmp_path / "home", LONG) as session:
        job = launch(builders.plan(tmp_path), session=session).id
        wait_step(job, session)
        source, ref = session.place("local").logs, status(job, session).ref
        log = job_folder(tmp_path / "home", job).log
        end = source.read(ref, None).cursor
        with log.open("ab") as file:
            file.write("half a line ü".encode()[:-1])
        texts = [line.text for line in source.read(ref, end).lines]
        assert not any("half" in text for text in texts), "a line without its end is still being written"
        os.truncate(log, 0)
        assert source.read(ref, "999999").cursor.isdecimal(), "a log that was cut is read from its beginning"
        stop(job, session=session, grace_seconds=5)
        assert source.read(ref, None).done


def test_progress_bars_show_their_last_state(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "1", "--say", "10 %\r50 %\r100 %"]) as session:
        job = launch(builders.plan(tmp_path), session=session).id
        wait_ended(job, session)
        assert lines(job, session) == ["100 %", "step 1 of 1"]


def test_stop_saves_and_is_idempotent(tmp_path):
    with builders.session(tmp_path / "home", LONG) as session:
        job = launch(builders.plan(tmp_path), session=session).id
        wait_step(job, session)
        view = stop(job, session=session, reason="enough")
        assert (view.state, view.exit_code, view.stop_reason) == (JobState.STOPPED, 75, "enough")
        assert stop(job, session=session).state is JobState.STOPPED
        assert len([event for event in session.ledger.events(LaunchId(job)) if event.kind == "stop_requested"]) == 1
        done = collect(job, session=session, to=tmp_path / "out")
        assert done.partial
        assert done.manifest.outcome == "interrupted"


def test_a_trainer_that_does_not_listen_is_ended_after_the_grace(tmp_path):
    with builders.session(tmp_path / "home", [*LONG, "--deaf"]) as session:
        job = launch(builders.plan(tmp_path), session=session).id
        wait_step(job, session)
        began = time.monotonic()
        assert stop(job, session=session, wait=False).state is JobState.STOPPING
        view = stop(job, session=session, grace_seconds=0.5)
        assert (view.state, view.exit_code) == (JobState.STOPPED, 137)
        assert 0.4 < time.monotonic() - began < 10


def test_the_supervisor_keeps_the_time_limit(tmp_path):
    with builders.session(tmp_path / "home", LONG) as session:
        job = launch(builders.plan(tmp_path, max_seconds=1), session=session).id
        view = wait_ended(job, session)
        assert (view.state, view.message) == (JobState.STOPPED, "the time limit was reached")
        assert 1 <= view.billable_seconds < 10


def test_secrets_reach_the_trainer_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345678")
    monkeypatch.setenv("UNRELATED_KEY", "must-not-travel")
    options = ["--say", "$HF_TOKEN", "$UNRELATED_KEY", "$CLOUDTUNE_LAUNCH_ID", "--steps", "2", "--fail-at", "2"]
    with builders.session(tmp_path / "home", options) as session:
        plan = builders.plan(tmp_path, secrets={"HF_TOKEN": "env"})
        job = launch(plan, session=session).id
        folder = job_folder(tmp_path / "home", job)
        wait_ended(job, session)
        assert lines(job, session)[:3] == ["***", "?", job]
        folder.failure.read_text()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert b"hf_abcdefgh12345678" not in everything
    assert b"must-not-travel" not in everything


def test_a_secret_in_the_failure_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "ran dry")  # a word of the stand-in's failure sentence
    with builders.session(tmp_path / "home", ["--fail-at", "1"]) as session:
        job = launch(builders.plan(tmp_path, secrets={"HF_TOKEN": "env"}), session=session).id
        assert wait_ended(job, session).message.startswith("the data ***\n")


def test_a_missing_secret_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with builders.session(tmp_path / "home", []) as session:
        with pytest.raises(RejectedError, match="WANDB_API_KEY is not in the environment"):
            launch(builders.plan(tmp_path, secrets={"WANDB_API_KEY": "env"}), session=session, launch_id="job-abc")
        assert status("job-abc", session).state is JobState.FAILED


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_secret_is_hidden_however_the_stream_is_cut(size):
    text = b"start s3cret middle s3cr s3crets3cret other-one end s3cre"
    redactor = Redactor(["s3cret", "other-one", "abc"])
    written = b"".join(redactor.feed(text[at : at + size]) for at in range(0, len(text), size)) + redactor.rest()
    assert written == b"start *** middle s3cr ****** *** end s3cre"


def test_data_that_changes_while_it_is_staged_is_refused(tmp_path):
    with builders.session(tmp_path / "home", []) as session:
        plan = builders.plan(tmp_path)
        bundle = render(plan)
        (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
        with pytest.raises(StagingError, match="changed while"):
            session.place("local").stager.stage(bundle, plan, lambda _: None)
        (tmp_path / "rows.jsonl").unlink()
        with pytest.raises(StagingError):
            launch(plan, session=session)
        assert len(ps(session)) == 0


def test_equal_data_is_staged_once_and_editing_it_changes_no_job(tmp_path):
    with builders.session(tmp_path / "home", LONG) as session:
        plan = builders.plan(tmp_path)
        for job in ("one-abc", "two-abc"):
            launch(plan, session=session, launch_id=job)
        before = (tmp_path / "rows.jsonl").read_bytes()
        (tmp_path / "rows.jsonl").write_text("edited")
        inputs = [job_folder(tmp_path / "home", LaunchId(job)).inputs / "train" / "0-rows.jsonl" for job in ("one-abc", "two-abc")]
        assert [path.read_bytes() for path in inputs] == [before, before]
        assert inputs[0].samefile(inputs[1])
        for job in ("one-abc", "two-abc"):
            stop(job, session=session, grace_seconds=2)


def test_jobs_are_found_by_everything_people_have(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "1"]) as session:
        plan, other = builders.plan(tmp_path), builders.plan(tmp_path, name="other")
        for launched, job in ((plan, "little-aaa"), (plan, "little-abb"), (other, "other-ccc")):
            launch(launched, session=session, launch_id=job)
        assert find_job("other-ccc", session).id == "other-ccc"
        assert find_job("other", session).id == "other-ccc"
        assert find_job("little-ab", session).id == "little-abb"
        assert find_job("local://this-machine/little-aaa", session).id == "little-aaa"
        assert find_job("last", session).id == "other-ccc"
        for text, why in (
            ("little", "several"),
            ("little-a", "several"),
            ("nobody", "no job"),
            ("", "no job"),
            ("local://elsewhere/x", "no job"),
        ):
            with pytest.raises(UsageError, match=why):
                find_job(text, session)
        for job in ("little-aaa", "little-abb", "other-ccc"):
            wait_ended(job, session)
        rows = cost(session, by="recipe")
        assert [(row.name, row.jobs, row.usd) for row in rows.rows] == [("little", 2, 0.0), ("other", 1, 0.0)]
        assert rows.total.hours > 0


def test_a_launch_that_breaks_before_the_job_starts_is_closed_for_good(tmp_path):
    """Staged data vanishes between staging and submitting: nothing runs, nothing can start later, the reason is kept."""
    with builders.session(tmp_path / "home", []) as session:
        place = session.place("local")

        class Forgetful:
            def stage(self, bundle, plan, progress):
                staged = place.stager.stage(bundle, plan, progress)
                for path in (tmp_path / "home" / "staged").iterdir():
                    path.unlink()
                return staged

        session._places["local"] = replace(place, stager=Forgetful())
        with pytest.raises(ProviderError, match="cannot be used"):
            launch(builders.plan(tmp_path), session=session, launch_id="job-abc")
        view = status("job-abc", session)
        assert (view.state, view.ref) == (JobState.FAILED, None)
        assert job_folder(tmp_path / "home", LaunchId("job-abc")).fenced.exists()


def test_one_launch_id_is_one_job(tmp_path):
    starts = tmp_path / "starts"
    with builders.session(tmp_path / "home", ["--steps", "2", "--starts", str(starts)]) as session:
        plan = builders.plan(tmp_path)
        for _ in range(3):
            launch(plan, session=session, launch_id="job-abc")
        wait_ended("job-abc", session)
        assert launch(plan, session=session, launch_id="job-abc").state is JobState.SUCCEEDED
        assert len(starts.read_text().splitlines()) == 1


def test_another_plan_under_a_used_id_is_refused(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "2"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id="job-abc")
        with pytest.raises(UsageError, match="already names another job"):
            launch(builders.plan(tmp_path, name="other"), session=session, launch_id="job-abc")
        wait_ended("job-abc", session)


def test_a_lost_ledger_is_rebuilt_from_the_jobs_of_this_machine(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "2"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id="little-abc")
        wait_ended("little-abc", session)
    for path in (tmp_path / "home").glob("ledger.db*"):
        path.unlink()
    with builders.session(tmp_path / "home", []) as session:
        assert len(ps(session)) == 0
        assert reconcile(session, adopt=True).adopted == ("little-abc",)
        view = status("little-abc", session)
        assert (view.state, view.recipe) == (JobState.SUCCEEDED, "little")
        assert not collect("little-abc", session=session, to=tmp_path / "out").partial
        assert cost(session).rows[0].usd is None


def test_a_job_whose_folder_was_removed_is_lost_and_can_be_given_up(tmp_path):
    import shutil

    with builders.session(tmp_path / "home", ["--steps", "2"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id="little-abc")
        while job_folder(tmp_path / "home", LaunchId("little-abc")).alive():
            time.sleep(0.02)
        shutil.rmtree(tmp_path / "home" / "local")
        assert status("little-abc", session).state is JobState.LOST
        assert wait_ended("little-abc", session).state is JobState.LOST, "tracking does not go on for ever"
        assert stop("little-abc", session=session).state is JobState.STOPPED
        assert session.ledger.views(is_open=True) == []


def test_the_ledger_keeps_the_request_without_secrets_and_the_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345678")
    with builders.session(tmp_path / "home", ["--steps", "1"]) as session:
        plan = builders.plan(tmp_path, secrets={"HF_TOKEN": "env"})
        launch(plan, session=session, launch_id="job-abc")
        kept = session.ledger.launch(LaunchId("job-abc"))
        assert json.loads(kept.request)["secrets"] == {"HF_TOKEN": "env"}
        assert type(plan).model_validate_json(kept.plan) == plan
        wait_ended("job-abc", session)
