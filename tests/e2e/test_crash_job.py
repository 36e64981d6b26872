"""What happens to a job when its trainer, its supervisor or the machine dies, and when several launchers race."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cloudtune.errors import CloudtuneError, RejectedError
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.local import supervisor
from cloudtune.providers.local.folder import job_folder
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import failure, ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import track
from tests import builders

LONG = ["--steps", "1000", "--pause", "0.05"]


def running(session, plan, launch_id="job-abc"):
    """A launched job that has made its first steps, and its folder."""
    launch(plan, session=session, launch_id=launch_id)
    for view in track(launch_id, session=session, interval=0.05):
        if view.progress and (view.progress.step or 0) >= 2:
            break
    return job_folder(session.settings.home, LaunchId(launch_id))


def pids(folder):
    started = supervisor.read_json(folder.started)
    return started["supervisor"]["pid"], started["trainer"]["pid"]


def wait_ended(session, launch_id="job-abc", seconds=20):
    deadline = time.monotonic() + seconds
    while not (view := status(launch_id, session)).ended:
        assert time.monotonic() < deadline, view
        time.sleep(0.05)
    return view


def wait_gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while supervisor.start_ticks(pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_line(folder, text, seconds=10):
    deadline = time.monotonic() + seconds
    while text not in folder.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_trainer_is_a_failure_with_the_last_lines_of_its_log(tmp_path):
    with builders.session(tmp_path / "home", LONG) as session:
        folder = running(session, builders.plan(tmp_path))
        os.kill(pids(folder)[1], signal.SIGKILL)
        view = wait_ended(session)
    assert view.state is JobState.FAILED
    assert view.exit_code == 137
    error = failure(view)
    assert error.exit_code == 1
    assert "killed by SIGKILL" in error.what
    assert error.log_tail[-1].startswith("step ")


def test_a_trainer_that_fails_says_why(tmp_path):
    with builders.session(tmp_path / "home", ["--fail-at", "2"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id="job-abc")
        view = wait_ended(session)
    assert (view.state, view.exit_code) == (JobState.FAILED, 1)
    assert failure(view).what == "the data ran dry"
    assert failure(view).log_tail == ("step 1 of 5", "step 2 of 5")


def test_an_end_without_a_manifest_is_a_failure(tmp_path):
    with builders.session(tmp_path / "home", ["--no-manifest"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id="job-abc")
        assert "without writing its manifest" in wait_ended(session).message


def test_a_trainer_does_not_outlive_its_supervisor(tmp_path):
    """The supervisor is killed: the trainer saves and ends, the job counts as interrupted and can be gone on with."""
    with builders.session(tmp_path / "home", LONG) as session:
        plan = builders.plan(tmp_path)
        folder = running(session, plan)
        watcher, trainer = pids(folder)
        os.kill(watcher, signal.SIGKILL)
        view = wait_ended(session)
        assert view.state is JobState.INTERRUPTED
        wait_gone(trainer)
        assert not folder.alive()
    with builders.session(tmp_path / "home", LONG) as session:
        launch(plan, session=session, launch_id="job-abc")
        assert not status("job-abc", session).ended
        wait_line(folder, "resuming from step")
        view = stop("job-abc", session=session)
        assert view.state is JobState.STOPPED
        assert folder.manifest.exists(), "partial results are kept"


def test_a_deaf_trainer_without_its_supervisor_is_stopped_by_force(tmp_path):
    with builders.session(tmp_path / "home", [*LONG, "--deaf"]) as session:
        folder = running(session, builders.plan(tmp_path))
        watcher, trainer = pids(folder)
        os.kill(watcher, signal.SIGKILL)
        time.sleep(0.3)
        assert status("job-abc", session).state is JobState.RUNNING, "it does run, and ps says so"
        view = stop("job-abc", session=session, grace_seconds=0.3)
        assert view.state is JobState.STOPPED
        wait_gone(trainer)


def test_sigterm_to_the_trainer_interrupts_and_the_job_can_go_on(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "12", "--pause", "0.1"]) as session:
        plan = builders.plan(tmp_path)
        folder = running(session, plan)
        os.kill(pids(folder)[1], signal.SIGTERM)
        view = wait_ended(session)
        assert (view.state, view.exit_code) == (JobState.INTERRUPTED, 75)
        assert [job.id for job in ps(session)] == ["job-abc"]
        before = view.progress.step
        assert collect("job-abc", session=session, to=tmp_path / "part").goes_on
        again = launch(plan, session=session, launch_id="job-abc")
        assert again.id == "job-abc"
        view = wait_ended(session)
        assert view.state is JobState.SUCCEEDED
        assert view.progress.step == 12
        assert 2 <= before < 12


def test_a_machine_that_went_down_is_not_mistaken_for_running(tmp_path):
    """After a restart the old ids belong to strangers: they are neither taken for the job nor signalled."""
    with builders.session(tmp_path / "home", LONG) as session:
        folder = running(session, builders.plan(tmp_path))
        watcher, trainer = pids(folder)
        os.kill(watcher, signal.SIGSTOP)  # so that it cannot write how it ended, as in a power cut
        os.kill(trainer, signal.SIGKILL)
        os.kill(watcher, signal.SIGKILL)
        wait_gone(watcher)
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
        try:
            started = supervisor.read_json(folder.started)
            for mark in (started["supervisor"], started["trainer"]):
                mark.update(pid=stranger.pid, boot="another boot of this machine", ticks=supervisor.start_ticks(stranger.pid))
            supervisor.write_json(folder.started, started)
            view = wait_ended(session)
            assert view.state is JobState.INTERRUPTED, "a checkpoint is there"
            assert stop("job-abc", session=session, grace_seconds=0.0).state is JobState.STOPPED
            assert stranger.poll() is None, "the stranger lives"
        finally:
            stranger.kill()
            stranger.wait()


def test_a_mark_with_another_start_time_is_never_signalled(tmp_path):
    """The id was used again within one boot while something of the job still holds the lock."""
    with builders.session(tmp_path / "home", [*LONG, "--deaf"]) as session:
        folder = running(session, builders.plan(tmp_path))
        watcher, trainer = pids(folder)
        os.kill(watcher, signal.SIGKILL)
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
        try:
            started = supervisor.read_json(folder.started)
            supervisor.write_json(folder.started, {**started, "trainer": {**started["trainer"], "pid": stranger.pid}})
            view = stop("job-abc", session=session, grace_seconds=0.0, wait=False)
            assert view.state is JobState.STOPPING
            time.sleep(0.3)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
            os.kill(trainer, signal.SIGKILL)


LAUNCHER = """
import sys, time
from pathlib import Path
from tests import builders
from cloudtune.verbs.launch import launch
with builders.session(Path(sys.argv[1]), ["--steps", "20"]) as session:
    launch(builders.plan(Path(sys.argv[2])), session=session, launch_id="job-abc")
    print("up", flush=True)
    time.sleep(60)
"""
RACER = """
import sys
from pathlib import Path
from tests import builders
from cloudtune.verbs.launch import _launch
from cloudtune.job import LaunchId
home, data, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
plan = builders.plan(data)
with builders.session(home, options) as session:
    print("ready", flush=True)
    sys.stdin.readline()
    print(_launch(plan, LaunchId("race-abc"), session, lambda _: None).ref)
"""


def test_launchers_that_race_start_one_trainer(tmp_path):
    """Six processes submit one launch id at the same instant, without the launchers' own lock between them."""
    starts = tmp_path / "starts"
    builders.plan(tmp_path)
    arguments = [str(tmp_path / "home"), str(tmp_path), "--steps", "3", "--starts", str(starts)]
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = {racer.communicate(timeout=60)[0] for racer in racers}
    assert answers == {"local://this-machine/race-abc\n"}
    with builders.session(tmp_path / "home", []) as session:
        assert wait_ended(session, "race-abc").state is JobState.SUCCEEDED
    assert len(starts.read_text().splitlines()) == 1


def test_a_fenced_launch_can_never_start(tmp_path):
    with builders.session(tmp_path / "home", ["--starts", str(tmp_path / "starts")]) as session:
        place, plan = session.place("local"), builders.plan(tmp_path)
        assert place.fence.fence(LaunchId("late-abc")) is None
        assert place.fence.fence(LaunchId("late-abc")) is None
        with pytest.raises(RejectedError, match="given up"):
            launch(plan, session=session, launch_id="late-abc")
        assert status("late-abc", session).state is JobState.FAILED
        with pytest.raises(CloudtuneError, match="given up"):
            launch(plan, session=session, launch_id="late-abc")
    assert not (tmp_path / "starts").exists()


def test_a_supervisor_that_comes_too_late_refuses(tmp_path):
    """The tombstone counts also for a supervisor that is already on its way with the lock."""
    folder = tmp_path / "job"
    folder.mkdir()
    supervisor.write_json(folder / supervisor.REQUEST, {"body": {"command": ["touch", str(tmp_path / "ran")], "secrets": {}}})
    supervisor.write_json(folder / supervisor.FENCED, {})
    supervisor.supervise(folder, 0)
    assert not (tmp_path / "ran").exists()
    assert not (folder / supervisor.STARTED).exists()


def test_fencing_a_started_job_gives_its_address(tmp_path):
    with builders.session(tmp_path / "home", []) as session:
        view = launch(builders.plan(tmp_path), session=session, launch_id="job-abc")
        assert session.place("local").fence.fence(LaunchId("job-abc")) == view.ref
        assert wait_ended(session).state is JobState.SUCCEEDED


def test_the_job_outlives_the_terminal_of_its_launcher(tmp_path):
    """The launcher's whole session gets SIGHUP and SIGINT, as from a closed window: the job does not notice."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path / "home"), str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert launcher.stdout.readline() == "up\n"
    for number in (signal.SIGHUP, signal.SIGINT):
        os.killpg(launcher.pid, number)
    launcher.communicate(timeout=30)
    with builders.session(tmp_path / "home", []) as session:
        assert wait_ended(session).state is JobState.SUCCEEDED


def test_the_record_of_a_job_is_whole_or_absent(tmp_path):
    """Two writers and a reader: the reader never sees half a file."""
    path = tmp_path / "x.json"
    body = {"text": "x" * 5000}
    pid = os.fork()
    if pid == 0:
        for _ in range(100):
            supervisor.write_json(path, body)
        os._exit(0)
    for _ in range(100):
        supervisor.write_json(path, body)
        assert json.loads(path.read_text()) == body
    os.waitpid(pid, 0)
