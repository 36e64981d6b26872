"""The real process: signals, exit codes, and two workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from trainer_jobs import FULL, LORA, NF4, Root, job_file

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]


def start(made: Root, *command: str, **more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CLOUDTUNE_ROOT": str(made.paths.root), "PYTHONPATH": f"{ROOT}:{ROOT / 'containers' / 'trainer'}", **more}
    log = (made.paths.root / "log").open("ab")
    with log:
        return subprocess.Popen([sys.executable, *(command or ("-m", "cloudtune_trainer"))], env=environment, stdout=log, stderr=log)


def wait_for_step(made: Root, process: subprocess.Popen[bytes], step: int) -> None:
    for _ in range(6000):  # a busy machine takes minutes to start two workers
        assert process.poll() is None, (made.paths.root / "log").read_text()
        if made.paths.metrics.exists() and any((row.step or 0) >= step and row.phase == "train" for row in made.metrics):
            return
        time.sleep(0.05)
    raise AssertionError("no such step within five minutes")


def test_sigterm_saves_and_ends_with_75_and_a_restart_finishes_the_same_run(root: Any) -> None:
    settings = {"max_steps": 150, "save_steps": 1000, "eval_steps": 1000}
    job = job_file(method={**LORA, "dropout": 0.1}, training=settings)
    whole, parted = root(job), root(job)
    process = start(parted)
    wait_for_step(parted, process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert parted.manifest.outcome == "interrupted"
    assert 2 <= parted.manifest.steps < 150
    assert start(parted).wait(120) == 0
    assert parted.manifest.outcome == "complete"
    assert parted.manifest.resumed_from_step is not None
    assert whole.train() == "complete"
    assert parted.weights == whole.weights


def test_a_failure_has_a_sentence_and_a_traceback_below_it(root: Any) -> None:
    made = root(job_file())
    (made.paths.inputs / made.job.train[0].path).unlink()
    assert start(made).wait(120) == 1
    first, *rest = made.paths.failure.read_text().splitlines()
    assert "the data file is not there" in first
    assert any("Traceback" in line for line in rest)
    assert "Traceback" not in (made.paths.root / "log").read_text()
    assert not made.paths.manifest.exists()


@pytest.mark.full
@pytest.mark.parametrize("method", [LORA, NF4, FULL], ids=lambda method: method["type"])
def test_two_workers_learn_what_one_does(root: Any, method: dict[str, Any]) -> None:
    one = root(job_file(method=method, micro=4))
    two, by_torchrun = (root(job_file(method=method, micro=2, workers=2)) for _ in range(2))
    assert one.train() == "complete"
    assert start(two).wait(300) == 0, (two.paths.root / "log").read_text()
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29417", "-m", "cloudtune_trainer")
    assert start(by_torchrun, *torchrun).wait(300) == 0
    assert two.weights == by_torchrun.weights
    losses = [[row.eval_loss for row in made.metrics if row.eval_loss is not None] for made in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    assert two.manifest.tokens == one.manifest.tokens
    assert two.manifest.train_loss == pytest.approx(one.manifest.train_loss, abs=2e-4)


@pytest.mark.full
def test_two_workers_are_interrupted_together_and_a_failure_ends_both(root: Any) -> None:
    settings = {"max_steps": 1000, "save_steps": 1000, "eval_steps": 1000}
    made = root(job_file(micro=2, workers=2, training=settings))
    process = start(made)
    wait_for_step(made, process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert made.manifest.outcome == "interrupted"
    broken = root(job_file(micro=2, workers=2))
    (broken.paths.inputs / broken.job.train[0].path).unlink()
    assert start(broken).wait(120) == 1
    assert "the data file is not there" in broken.paths.failure.read_text().splitlines()[0]
