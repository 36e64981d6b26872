"""The stand-in cloud's runner in real containers, and a whole rehearsal in the real image."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloudtune.engine import containers
from cloudtune.job import JobState
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.standins.container import ContainerRunner
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.runner import Program
from cloudtune.verbs.launch import launch
from cloudtune.verbs.rehearse import rehearse
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import track
from tests.containers.conftest import Engine
from tests.containers.jobs import QUICKSTART, bare_job, plan_of
from tests.gcp_life import gcp_session, quick_scene
from tests.unit.gcp_builders import gcp_plan

pytestmark = pytest.mark.engine
SHORT = (
    "training.max_steps=150", "training.save_steps=8", "training.eval_steps=75", "training.batch_size=4", "training.micro_batch_size=4",
    "data.eval=0.02",
)  # fmt: skip


class Lines(list[tuple[str, str]]):
    def __call__(self, host: str, line: str) -> None:
        self.append((host, line))


def program(job: Path, command: tuple[str, ...], **env: str) -> Program:
    workplace = job.parent / "work"
    workplace.mkdir()
    return Program(command, {"TRAINING_JOB_NAME": "boxed", **env}, {"/opt/ml": job}, workplace, host="algo-1")


def test_a_program_runs_is_asked_to_end_and_leaves_no_container(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "waits")
    lines = Lines()
    runner = ContainerRunner(engine.url, supervisor_image, env={"PYTHONPATH": "/code"})
    running = runner.start(program(job_folder, ("python3", "-m", "cloudtune_entry", "train")), lines)
    deadline = time.monotonic() + 60
    while ("algo-1", "ready") not in lines:
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)
    assert running.wait(0.1) is None
    running.terminate()
    assert running.wait(60) == 143
    assert (job_folder / "checkpoints/step-00000001/COMPLETE").exists()
    assert any("interrupted by SIGTERM" in line for _, line in lines)
    assert containers.find(engine.connection, running._name) is None


def test_pip_inside_the_container_stays_in_the_jobs_folder(engine: Engine, supervisor_image: str, job_folder: Path):
    code = job_folder / "input" / "data" / "code"
    code.mkdir(parents=True)
    (code / "requirements.txt").write_text("no-such-package-of-anybody==1.0\n")
    (code / "start.sh").write_text('set -e\npython3 -m pip install -r "$(dirname "$0")/requirements.txt"\nexec python3 -c "print(6 * 7)"\n')
    lines = Lines()
    running = ContainerRunner(engine.url, supervisor_image).start(program(job_folder, ("sh", "/opt/ml/input/data/code/start.sh")), lines)
    assert running.wait(60) == 0, lines
    assert [line for _, line in lines] == ["asked for and not here: no-such-package-of-anybody", "42"]


def test_a_job_of_vertex_ai_runs_in_a_container_and_leaves_its_results_in_the_bucket(
    engine: Engine, supervisor_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The launcher, request, mount and states are those of ``rehearse --provider gcp --mode container``; the trainer is a stand-in."""
    runner = ContainerRunner(engine.url, supervisor_image, env={"PYTHONPATH": "/code"})
    for place in (tmp_path, *tmp_path.parents):
        if str(place).startswith("/tmp/pytest"):
            place.chmod(0o755)
    with GcpStandin.start(tmp_path / "cloud", mode="container", runner=runner, scene=quick_scene()) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        with gcp_session(tmp_path, cloud) as session:
            for name in ("completes", "waits"):
                launch(gcp_plan(tmp_path / "data", name=name), session=session, launch_id=f"{name}-abc")
            ended = list(track("completes-abc", session=session))[-1]
            assert ended.state is JobState.SUCCEEDED, ended.message
            wait_for_line(cloud, "ready")
            assert stop("waits-abc", session=session).state is JobState.STOPPED
        left = cloud.store.bucket(cloud.scene.bucket).objects
        assert "cloudtune/jobs/completes-abc/model/manifest.json" in left
        assert "cloudtune/jobs/waits-abc/checkpoints/step-00000001/COMPLETE" in left
        assert any("interrupted by SIGTERM" in entry.text for entry in cloud.logs.entries)


def wait_for_line(cloud: GcpStandin, text: str) -> None:
    deadline = time.monotonic() + 90
    while not any(entry.text == text for entry in cloud.logs.entries):
        assert time.monotonic() < deadline, [entry.text for entry in cloud.logs.entries]
        time.sleep(0.1)


@pytest.mark.stack
@pytest.mark.timeout(900)
@pytest.mark.parametrize("provider", ["aws", pytest.param("gcp", marks=pytest.mark.full)])
def test_a_rehearsal_in_the_real_image(
    engine: Engine, trainer_image: str, quickstart_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
):
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    plan = plan_of(QUICKSTART, *SHORT, provider=provider)
    with Session.open(Settings(home=tmp_path / "home", cache=quickstart_base)) as session:
        run = rehearse(plan, session=session, mode="container")
    assert run.ok, (run.proofs, run.log_tail)
    assert run.mode == "container"
    assert [proof.name for proof in run.proofs][-3:] == ["cost", "collect", "load"]
    assert not any("the image" in line for line in run.unproved)
    assert not {"AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"} & os.environ.keys()
    if provider == "gcp":
        told = {proof.name: proof.detail for proof in run.proofs}
        assert "2 starts of one job" in told["interruption and resume"]
        assert "resumed from step" in told["collect"]
