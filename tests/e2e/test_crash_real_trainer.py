"""The crash cases once more with the real trainer: the launcher is killed, then the supervisor, then the job goes on.

In ``make test-full``: ``make test`` has the same cases with a trainer that only pretends, and the real one in two rehearsals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudtune.job import JobState, LaunchId
from cloudtune.providers.local import supervisor
from cloudtune.providers.local.folder import job_folder
from cloudtune.recipe.load import load_file
from cloudtune.session import Session
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.plan import make_plan

pytestmark = [pytest.mark.stack, pytest.mark.full]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
JOB = LaunchId("real-abc")
LAUNCHER = """
import os, signal, sys, threading
from pathlib import Path
from cloudtune.planning.plan import Plan
from cloudtune.session import Session
from cloudtune.verbs.launch import launch
plan = Plan.model_validate_json(Path(sys.argv[1]).read_bytes())
with Session.open() as session:
    threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    launch(plan, session=session, launch_id="real-abc")
    signal.pause()
"""


def trainers():
    """Process ids of this test's trainers, by their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CLOUDTUNE_LAUNCH_ID={JOB}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
        except OSError:
            continue
    return [pid for pid, command in found if b"cloudtune_trainer" in command]


def wait_for(session, test, seconds=400):
    deadline = time.monotonic() + seconds
    while not test(view := status(JOB, session)):
        assert time.monotonic() < deadline, view
        assert len(trainers()) <= 1
        time.sleep(0.1)
    return view


@pytest.mark.timeout(1200)
def test_a_real_job_survives_its_launcher_and_goes_on_after_its_supervisor(tmp_path):
    loaded = load_file(RECIPE, ["training.max_steps=30", "training.save_steps=10", "training.eval_steps=30"])
    with Session.open() as session:
        plan = make_plan(loaded, provider="local", session=session)
        (tmp_path / "plan.json").write_text(plan.model_dump_json())
        killed = subprocess.run([sys.executable, "-c", LAUNCHER, str(tmp_path / "plan.json"), "1.0"], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert [view.id for view in ps(session)] == [JOB]
        wait_for(session, lambda view: view.progress and view.progress.phase == "train" and (view.progress.step or 0) >= 12)
        folder = job_folder(session.settings.home, JOB)
        os.kill(supervisor.read_json(folder.started)["supervisor"]["pid"], signal.SIGKILL)
        view = wait_for(session, lambda view: view.ended, 60)
        assert view.state is JobState.INTERRUPTED
        assert trainers() == []
        launch(plan, session=session, launch_id=JOB)
        view = wait_for(session, lambda view: view.ended)
        assert view.state is JobState.SUCCEEDED, view.message
        done = collect(JOB, session=session, to=tmp_path / "out")
        assert done.manifest.resumed_from_step >= 12
        assert done.manifest.steps == 30
        assert not done.partial
