"""Bad orders end with exit 1 and one sentence, before anything heavy is imported; a finished job is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_jobs import job_file

from cloudtune.manifest import Manifest, PeakMemory
from cloudtune_trainer.failure import sentence

ROOT = Path(__file__).parents[2]


def run(root: Path, *, code: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOUDTUNE_ROOT": str(root), "PYTHONPATH": f"{ROOT}:{ROOT / 'containers' / 'trainer'}"}
    command = ["-c", code] if code else ["-m", "cloudtune_trainer"]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=60, check=False)


def orders(root: Path, content: str) -> None:
    folder = root / "input" / "data" / "job"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(content)


def changed(**change: Any) -> str:
    return json.dumps({**job_file().model_dump(mode="json"), **change})


def recipe(**change: Any) -> str:
    job = job_file().model_dump(mode="json")
    return json.dumps({**job, "recipe": {**job["recipe"], **change}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no readable job.json"),
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        (changed(contract=9), "speaks contract 9, this trainer speaks 1"),
        (changed(device="tpu"), "job.json is not valid: device"),
        (changed(surprise=1), "job.json is not valid: surprise"),
        (recipe(training={"learning_rate": "auto"}), "leaves training.micro_batch_size undecided"),
    ],
)
def test_bad_orders(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        orders(tmp_path, content)
    done = run(tmp_path)
    first = (tmp_path / "output" / "failure").read_text().splitlines()[0]
    assert done.returncode == 1
    assert said in first
    assert "Traceback" not in first + done.stdout + done.stderr
    assert f"failed: {first}" in done.stdout


def test_a_finished_job_is_left_alone_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    orders(tmp_path, changed())
    manifest = Manifest(
        outcome="complete", launch_id="a", recipe_name="a", method="lora", base_model="b", steps=1, total_steps=1, epochs=1, seconds=1,
        peak_memory=PeakMemory(device="cpu"), versions={}, artifacts=(),
    )  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text(manifest.model_dump_json())
    code = "import sys; from cloudtune_trainer.__main__ import main; code = main()"
    code += "; print([name for name in ('torch', 'transformers') if name in sys.modules], code)"
    done = run(tmp_path, code=code)
    assert "finished already" in done.stdout
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_an_old_failure_file_does_not_outlive_a_new_start(tmp_path: Path) -> None:
    test_a_finished_job_is_left_alone_and_nothing_heavy_is_imported(tmp_path)
    (tmp_path / "output").mkdir(exist_ok=True)
    (tmp_path / "output" / "failure").write_text("old")
    assert run(tmp_path).returncode == 0
    assert not (tmp_path / "output" / "failure").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"), "the GPU's memory is full: lower"),
        (MemoryError(), "the machine's memory is full: lower"),
        (OSError(28, "No space left on device", "/opt/ml/model/x"), "No space left on device: /opt/ml/model/x"),
        (KeyError("lost"), "KeyError: 'lost'"),
    ],
)
def test_what_went_wrong_is_one_sentence(error: Exception, said: str) -> None:
    assert sentence(error).startswith(said)
