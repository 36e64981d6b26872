"""The supervisor in real containers: exit codes, SIGTERM, memory, secrets, users, and both platforms' contracts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cloudtune.engine.runner import ContainerRunner, Finished
from cloudtune.rendering.contract import Contract, Limits, job_container, with_secrets
from tests.containers.conftest import Engine
from tests.containers.jobs import bare_job

pytestmark = pytest.mark.engine
SECRET = "hf_planted_0123456789abcdef"


def run(engine: Engine, image: str, folder: Path, contract: Contract = "local", **changes: object) -> Finished:
    limits = changes.pop("limits", Limits())
    spec = replace(job_container(contract, image, folder, f"t-{os.getpid()}", limits), **changes)
    watch = (lambda log: "ready" in log) if "waits" in (folder / "input/data/job/job.json").read_text() else None
    return ContainerRunner(engine.connection).run(spec, seconds=60, watch=watch)


def status(folder: Path) -> dict[str, object]:
    return json.loads((folder / "output/data/status.json").read_text())


@pytest.mark.parametrize(
    ("name", "code", "failure"),
    [
        ("exit-0", 0, None),
        ("exit-1", 1, "exit code 1"),
        ("exit-3", 1, "exit code 3"),
        ("fails-with-words", 1, "the data is wrong"),
        ("segfault", 139, "segmentation fault"),
    ],
)
def test_exit_codes_and_markers(engine: Engine, supervisor_image: str, job_folder: Path, name: str, code: int, failure: str | None):
    ended = run(engine, supervisor_image, bare_job(job_folder, name))
    assert ended.exit_code == code
    written = job_folder / "output/failure"
    assert (failure in written.read_text()) if failure else not written.exists()
    assert status(job_folder)["outcome"] == ("complete" if code == 0 else "failed")


@pytest.mark.parametrize(("contract", "code"), [("local", 75), ("vertex", 75), ("sagemaker", 143)])
def test_sigterm_reaches_the_trainer_and_ends_as_interrupted(
    engine: Engine, supervisor_image: str, job_folder: Path, contract: Contract, code: int
):
    ended = run(engine, supervisor_image, bare_job(job_folder, "waits"), contract)
    assert (ended.signalled, ended.exit_code) == (True, code)
    assert (job_folder / "checkpoints/step-00000001/COMPLETE").exists()
    assert status(job_folder)["outcome"] == "interrupted"
    assert f"{contract} container" in ended.log


def test_memory_limit_ends_with_137_and_says_so(engine: Engine, supervisor_image: str, job_folder: Path):
    ended = run(engine, supervisor_image, bare_job(job_folder, "eats-memory"), limits=Limits(memory_bytes=128 << 20))
    assert ended.exit_code == 137
    assert ended.oom_killed is (engine.kind == "docker"), "podman does not say it; the supervisor in the container sees it for itself"
    assert "memory limit of 128 MiB was reached" in (job_folder / "output/failure").read_text()


def test_full_disk_is_a_failure_and_not_a_hang(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "fills-disk")
    spec = job_container("local", supervisor_image, job_folder, "full")
    spec = replace(spec, tmpfs={"/opt/ml/model": 8 << 20})
    ended = ContainerRunner(engine.connection).run(spec, seconds=60)
    assert ended.exit_code == 1
    assert "No space left on device" in ended.log


def test_orphans_are_reaped(engine: Engine, supervisor_image: str, job_folder: Path):
    assert "zombies 0" in run(engine, supervisor_image, bare_job(job_folder, "leaves-orphans")).log


def test_missing_and_damaged_job_files_are_one_sentence(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "exit-0")
    place = job_folder / "input/data/job/job.json"
    for content, said in ((b"{", "damaged"), (b'{"contract": 9}', "damaged"), (None, "there is no job file")):
        if content is None:
            place.unlink()
        else:
            place.write_bytes(content)
        ended = ContainerRunner(engine.connection).run(job_container("local", supervisor_image, job_folder, "bad"), seconds=30)
        assert ended.exit_code == 1
        assert said in (job_folder / "output/failure").read_text()
        assert "Traceback" not in ended.log


def test_a_gpu_job_without_a_gpu_says_so_at_once(engine: Engine, supervisor_image: str, job_folder: Path):
    ended = run(engine, supervisor_image, bare_job(job_folder, "exit-0", device="cuda"))
    assert ended.exit_code == 1
    assert ended.seconds < 60
    assert "no NVIDIA driver in this container" in (job_folder / "output/failure").read_text()


def test_read_only_root_is_enough(engine: Engine, supervisor_image: str, job_folder: Path):
    ended = run(engine, supervisor_image, bare_job(job_folder, "exit-0"), read_only=True, tmpfs={"/tmp": 16 << 20})
    assert ended.exit_code == 0, ended.log


def test_the_work_is_handed_to_an_unprivileged_user_where_the_mounts_allow(engine: Engine, supervisor_image: str, job_folder: Path):
    ended = run(engine, supervisor_image, bare_job(job_folder, "exit-0"))
    assert "trainer: exit-0 as 1000" in ended.log
    private = job_folder / "input/data/train"
    private.mkdir()
    (private / "mine.jsonl").write_text("{}")
    (private / "mine.jsonl").chmod(0o600)
    kept = run(engine, supervisor_image, job_folder)
    assert "trainer: exit-0 as 0" in kept.log
    assert "may not use" in kept.log


def test_a_started_user_is_kept(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "exit-0")
    for path in [job_folder, *job_folder.rglob("*")]:
        os.chown(path, 4321, 4321)
    assert "trainer: exit-0 as 4321" in run(engine, supervisor_image, job_folder, user="4321:4321").log


def test_a_secret_reaches_the_trainer_and_nothing_else(engine: Engine, supervisor_image: str, job_folder: Path, tmp_path: Path):
    bare_job(job_folder, "shows-secret", secrets={"HF_TOKEN": "env"})
    hidden = tmp_path / "secrets"
    hidden.mkdir()
    (hidden / "HF_TOKEN").write_text(SECRET)
    spec = with_secrets(job_container("local", supervisor_image, job_folder, "secret"), hidden)
    runner = ContainerRunner(engine.connection)
    ended = runner.run(spec, seconds=30)
    assert "token is [HF_TOKEN]" in ended.log
    assert (job_folder / "output/failure").read_text() == "refused: [HF_TOKEN]\n"
    assert SECRET not in ended.log
    # The control: the same job without the supervisor's care leaks, so the search above would have found it.
    leaking = {**spec.env, "HF_TOKEN": SECRET, "CLOUDTUNE_ROOT": "/opt/ml"}
    careless = replace(spec, entrypoint=("python3", "-m", "cloudtune_trainer"), command=(), env=leaking)
    assert SECRET in runner.run(careless, seconds=30).log


def test_a_missing_secret_is_said_and_survived(engine: Engine, supervisor_image: str, job_folder: Path):
    ended = run(engine, supervisor_image, bare_job(job_folder, "exit-0", secrets={"WANDB_API_KEY": "env"}))
    assert ended.exit_code == 0
    assert "the secret WANDB_API_KEY is not in the environment" in ended.log


def test_vertex_results_and_marked_checkpoints_reach_the_bucket_and_come_back(engine: Engine, supervisor_image: str, job_folder: Path):
    bare_job(job_folder, "sees-checkpoints")
    for name, marked in (("step-00000001", True), ("step-00000002", False)):
        (job_folder / "checkpoints" / name).mkdir()
        (job_folder / "checkpoints" / name / "weights").write_text("w")
        if marked:
            (job_folder / "checkpoints" / name / "COMPLETE").write_text("{}")
    ended = run(engine, supervisor_image, job_folder, "vertex")
    assert ended.exit_code == 0, ended.log
    assert "found ['step-00000001']" in ended.log
    assert (job_folder / "model/manifest.json").exists()
    assert (job_folder / "output/data/metrics.jsonl").exists()
    assert [json.loads(line)["attempt"] for line in (job_folder / "output/data/starts.jsonl").read_text().splitlines()] == [1]
