"""Provider local with its jobs in containers: launched, followed, stopped, resumed and collected like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtune.engine import containers
from cloudtune.job import JobState
from cloudtune.providers.local.container import build_container_request
from cloudtune.providers.local.place import connect
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.launch import launch
from cloudtune.verbs.render import render
from cloudtune.verbs.stop import stop
from tests.containers.conftest import Engine
from tests.containers.jobs import QUICKSTART, ROOT, SHORT, bare_job, plan_of

pytestmark = pytest.mark.engine
PATIENCE = 400.0


@pytest.fixture
def session(engine: Engine, tmp_path: Path, quickstart_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    with Session.open(Settings(home=tmp_path / "home", cache=quickstart_base, local_mode="container")) as opened:
        yield opened


def until(session: Session, launch_id: str, wanted: set[JobState], log: str = "") -> JobState:
    deadline = time.monotonic() + PATIENCE
    place = session.place("local")
    while time.monotonic() < deadline:
        view = session.ledger.view(launch_id)
        (reading,) = place.jobs.poll([view.ref])
        if reading.state in wanted and (not log or log in text_of(session, launch_id)):
            return reading.state
        assert not reading.state.terminal or reading.state in wanted, reading.message
        time.sleep(0.2)
    raise AssertionError(f"{launch_id} did not become {wanted}: {text_of(session, launch_id)[-2000:]}")


def text_of(session: Session, launch_id: str) -> str:
    view = session.ledger.view(launch_id)
    page = session.place("local").logs.read(view.ref, None)
    return "\n".join(line.text for line in page.lines)


@pytest.mark.stack
def test_a_job_in_a_container_is_stopped_with_a_checkpoint(session: Session, trainer_image: str, engine: Engine):
    long = [item for item in SHORT if "max_steps" not in item]
    plan = plan_of(QUICKSTART, *long, "training.max_steps=4000")
    view = launch(plan, session=session, launch_id="in-a-box")
    until(session, view.id, {JobState.RUNNING}, log="checkpoint step-")
    assert containers.find(engine.connection, "cloudtune-in-a-box").running
    stop(view.id, session=session)
    assert until(session, view.id, {JobState.STOPPED}) is JobState.STOPPED
    assert containers.find(engine.connection, "cloudtune-in-a-box") is None
    root = session.settings.home / "local" / "in-a-box" / "ml"
    assert list((root / "checkpoints").glob("*/COMPLETE"))
    assert "local container, start 1 of this job" in text_of(session, view.id)


def test_the_request_names_image_and_secrets_but_no_value(engine: Engine, tmp_path: Path):
    plan = plan_of(QUICKSTART, "secrets.HF_TOKEN=env")
    staged = connect(Settings(home=tmp_path, cache=tmp_path), None).stager.stage(render(plan), plan, lambda _: None)  # type: ignore[arg-type]
    uris = {**staged.uris, "image": "sha256:abc", "engine": engine.url, "user": ""}
    request = build_container_request(plan, type(staged)(staged.digest, uris), "an-id")  # type: ignore[arg-type]
    assert request.body["command"][-2:] == ["--secret", "HF_TOKEN"]
    assert "image" not in request.body["inputs"]
    assert request.body["command"][7:9] == ["--network", "none"]


def test_a_killed_launcher_does_not_leave_a_running_container(engine: Engine, supervisor_image: str, job_folder: Path):
    """The foreground program is killed with SIGKILL: the container sees its lifeline stand still, saves and ends."""
    bare_job(job_folder, "waits")
    environ = {**os.environ, "CLOUDTUNE_ROOT": str(job_folder), "CLOUDTUNE_LAUNCH_ID": "orphan", "PYTHONPATH": str(ROOT)}
    environ["CLOUDTUNE_LIFELINE_SECONDS"] = "3"
    environ.pop("CLOUDTUNE_CACHE", None)
    command = [sys.executable, "-m", "cloudtune.engine.foreground", "--engine", engine.url, "--image", supervisor_image]
    program = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        for line in program.stdout or ():
            if "ready" in line:
                break
        program.send_signal(signal.SIGKILL)
        ended = containers.wait(engine.connection, "cloudtune-orphan", 60)
        assert ended.exit_code == 75
        assert (job_folder / "checkpoints/step-00000001/COMPLETE").exists()
        assert "the launcher is gone" in containers.log_text(engine.connection, "cloudtune-orphan")
    finally:
        program.kill()
        program.wait()
        if program.stdout:
            program.stdout.close()
        containers.remove(engine.connection, "cloudtune-orphan")


def test_the_foreground_program_passes_on_exit_code_log_and_sigterm(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "waits")
    environ = {**os.environ, "CLOUDTUNE_ROOT": str(job_folder), "CLOUDTUNE_LAUNCH_ID": "front", "PYTHONPATH": str(ROOT)}
    environ.pop("CLOUDTUNE_CACHE", None)
    command = [sys.executable, "-m", "cloudtune.engine.foreground", "--engine", engine.url, "--image", supervisor_image]
    program = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    for line in program.stdout or ():
        if "ready" in line:
            program.send_signal(signal.SIGTERM)
            break
    rest, _ = program.communicate(timeout=60)
    assert program.returncode == 75
    assert "interrupted by SIGTERM" in rest
    assert containers.find(engine.connection, "cloudtune-front") is None
