"""The image from the rendered Dockerfile: the quickstart under every contract without a network, as in plain processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from cloudtune.engine.builder import EngineBuilder
from cloudtune.engine.runner import ContainerRunner, Finished
from cloudtune.manifest import Manifest
from cloudtune.rendering.contract import Contract, Limits, job_container, with_cache
from cloudtune.rendering.image import ensure_image, image_name
from tests.containers.conftest import Engine
from tests.containers.jobs import QUICKSTART, ROOT, SHORT, plan_of, stage

# Three trainings in one test, on machines that may have other things to do.
pytestmark = [pytest.mark.engine, pytest.mark.stack, pytest.mark.timeout(1800)]
LONGEST_SECONDS = 600
ENOUGH = Limits(memory_bytes=3 << 30, network="none")


def in_container(engine: Engine, image: str, folder: Path, contract: Contract, base: Path, **changes: object) -> Finished:
    launch_id = f"quickstart-{uuid.uuid4().hex[:8]}"  # an engine may keep a removed container's name for a moment
    spec = with_cache(job_container(contract, image, folder, launch_id, ENOUGH), base)
    return ContainerRunner(engine.connection).run(replace(spec, **changes), seconds=LONGEST_SECONDS)


def as_process(folder: Path, base: Path) -> subprocess.CompletedProcess[str]:
    """The same job by the machine's own Python, the one that the test's base image carries, with the tested packages."""
    paths = [str(ROOT / "containers/trainer"), str(ROOT), sysconfig.get_paths()["purelib"]]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(paths),
        "CLOUDTUNE_ROOT": str(folder),
        "CLOUDTUNE_CACHE": str(base),
        "CLOUDTUNE_LAUNCH_ID": "quickstart-process",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    command = ["/usr/bin/python3", "-m", "cloudtune_trainer"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)


def results(folder: Path) -> tuple[Manifest, list[tuple[object, ...]]]:
    """The manifest, and of every metrics row what does not depend on the clock."""
    manifest = Manifest.model_validate_json((folder / "model/manifest.json").read_bytes())
    rows = [json.loads(line) for line in (folder / "output/data/metrics.jsonl").read_text().splitlines()]
    return manifest, [tuple(row.get(key) for key in ("step", "eval_loss")) for row in rows if row.get("eval_loss") is not None]


def test_quickstart_gives_equal_numbers_under_both_contracts_and_as_a_process(
    engine: Engine, trainer_image: str, job_folder: Path, quickstart_base: Path
):
    plan = plan_of(QUICKSTART, *SHORT)
    folders = {name: stage(plan, job_folder / name) for name in ("sagemaker", "vertex", "process")}
    for contract in ("sagemaker", "vertex"):
        ended = in_container(engine, trainer_image, folders[contract], contract, quickstart_base)
        assert ended.exit_code == 0, ended.log[-3000:]
        assert f"{contract} container" in ended.log
    assert "the trainer runs as user 1000" in ended.log
    alone = as_process(folders["process"], quickstart_base)
    assert alone.returncode == 0, alone.stderr[-3000:]
    expected, expected_rows = results(folders["process"])
    weights = {item.path: item.sha256 for item in expected.artifacts if item.path.startswith("adapter/")}
    assert expected.eval_loss_after < expected.eval_loss_before
    for contract in ("sagemaker", "vertex"):
        manifest, rows = results(folders[contract])
        assert rows == expected_rows
        assert (manifest.train_loss, manifest.eval_loss_before, manifest.eval_loss_after) == (
            expected.train_loss,
            expected.eval_loss_before,
            expected.eval_loss_after,
        )
        assert {item.path: item.sha256 for item in manifest.artifacts if item.path == "adapter/adapter_model.safetensors"} == {
            "adapter/adapter_model.safetensors": weights["adapter/adapter_model.safetensors"]
        }


def test_a_finished_vertex_job_on_a_read_only_root_needs_no_second_training(
    engine: Engine, trainer_image: str, job_folder: Path, quickstart_base: Path
):
    """A platform's own restart after the end: the manifest in the bucket says that nothing is left to do."""
    folder = stage(plan_of(QUICKSTART, *SHORT), job_folder / "job")
    tmpfs = {"/tmp": 256 << 20}
    ended = in_container(engine, trainer_image, folder, "local", quickstart_base, read_only=True, tmpfs=tmpfs)
    assert ended.exit_code == 0, ended.log[-3000:]
    again = in_container(engine, trainer_image, folder, "local", quickstart_base, read_only=True, tmpfs=tmpfs)
    assert again.exit_code == 0
    assert "finished already" in again.log


def test_missing_data_names_the_file(engine: Engine, trainer_image: str, job_folder: Path, quickstart_base: Path):
    folder = stage(plan_of(QUICKSTART, *SHORT), job_folder / "job")
    shutil.rmtree(folder / "input/data/train")
    ended = in_container(engine, trainer_image, folder, "sagemaker", quickstart_base)
    assert ended.exit_code == 1
    assert "0-quickstart.jsonl" in (folder / "output/failure").read_text()


def test_too_little_memory_ends_with_137_and_a_clear_message(engine: Engine, trainer_image: str, job_folder: Path, quickstart_base: Path):
    folder = stage(plan_of(QUICKSTART, *SHORT), job_folder / "job")
    spec = with_cache(job_container("sagemaker", trainer_image, folder, "small", Limits(memory_bytes=192 << 20)), quickstart_base)
    ended = ContainerRunner(engine.connection).run(spec, seconds=LONGEST_SECONDS)
    assert ended.exit_code == 137
    assert "memory limit of 192 MiB was reached" in (folder / "output/failure").read_text()


def test_a_full_disk_fails_with_a_sentence(engine: Engine, trainer_image: str, job_folder: Path, quickstart_base: Path):
    folder = stage(plan_of(QUICKSTART, *SHORT), job_folder / "job")
    ended = in_container(engine, trainer_image, folder, "local", quickstart_base, tmpfs={"/opt/ml/model": 64 << 10})
    assert ended.exit_code == 1
    assert "no space left" in (folder / "output/failure").read_text().lower()


def test_an_unchanged_image_is_never_built_again(engine: Engine, trainer_image: str, trainer_context: dict[str, bytes]):
    said: list[str] = []
    name = image_name(trainer_context, "cpu")
    assert ensure_image(EngineBuilder(engine.connection), name, trainer_context, said.append) == trainer_image
    assert said == [f"image {name} is there already"]
