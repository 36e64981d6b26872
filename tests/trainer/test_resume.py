"""An interrupted and resumed run leaves the bytes of an uninterrupted one; what is half written does not count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainer_jobs import FULL, LORA, NF4, ROWS, StopAfter, job_file

from cloudtune.errors import JobFailed
from cloudtune_trainer import checkpoints
from cloudtune_trainer.checkpoints import MARKER, is_complete, newest, read_progress
from cloudtune_trainer.orders import digest
from cloudtune_trainer.report import Report

pytestmark = pytest.mark.stack


def folders(root: Any) -> list[str]:
    return sorted(path.name for path in root.paths.checkpoints.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"method": {**LORA, "dropout": 0.2}},
        {"method": {**NF4, "dropout": 0.2}, "data": {"packing": True}},
        {"method": FULL, "training": {"neftune_noise_alpha": 5.0}},
        {"method": LORA, "training": {"optimizer": "adamw_8bit"}},
        {"method": FULL, "training": {"optimizer": "paged_adamw_8bit"}},
        {"method": LORA, "training": {"optimizer": "adafactor"}},
    ],
    ids=lambda settings: json.dumps(settings)[12:80],
)
def test_resumed_equals_uninterrupted(root: Any, settings: dict[str, Any]) -> None:
    whole, parted = root(job_file(**settings)), root(job_file(**settings))
    assert whole.train() == "complete"
    assert parted.train(StopAfter(9)) == "interrupted"
    interrupted = parted.manifest
    assert interrupted.outcome == "interrupted"
    assert 0 < interrupted.steps < 6
    assert parted.train() == "complete"
    assert parted.weights == whole.weights
    assert parted.manifest.resumed_from_step == interrupted.steps
    for name in ("steps", "tokens", "trained_tokens", "train_loss", "eval_loss_before", "eval_loss_after", "epochs"):
        assert getattr(parted.manifest, name) == getattr(whole.manifest, name), name


def test_resumed_encoder_equals_uninterrupted(root: Any, encoder: Any) -> None:
    whole, parted = root(job_file("text", task="masked_lm"), base=encoder), root(job_file("text", task="masked_lm"), base=encoder)
    whole.train()
    assert parted.train(StopAfter(9)) == "interrupted"
    parted.train()
    assert parted.weights == whole.weights


def test_the_same_job_twice_leaves_the_same_bytes(root: Any) -> None:
    one, two = root(job_file(method=NF4)), root(job_file(method=NF4))
    one.train()
    two.train()
    left, right = ({item.path: item.sha256 for item in made.manifest.artifacts} for made in (one, two))
    assert left.pop("metrics.jsonl") != right.pop("metrics.jsonl")  # it holds times
    assert left == right
    losses = [[(row.step, row.loss, row.eval_loss) for row in made.metrics if row.loss or row.eval_loss] for made in (one, two)]
    assert losses[0] == losses[1]
    other = root(job_file(method=NF4, training={"seed": 1}))
    other.train()
    assert other.weights != one.weights


def test_interrupted_before_the_first_step(root: Any) -> None:
    made = root(job_file())
    assert made.train(StopAfter(0)) == "interrupted"
    assert made.manifest.outcome == "interrupted"
    assert made.manifest.steps == 0
    assert made.train() == "complete"


def test_only_the_newest_two_are_kept_and_half_written_ones_are_ignored_and_removed(root: Any) -> None:
    made = root(job_file(training={"save_steps": 1}))
    made.train()
    assert folders(made) == ["step-00000005", "step-00000006"]
    want = made.weights
    newer = made.paths.checkpoints / "step-00000009"
    shutil.copytree(made.paths.checkpoints / "step-00000006", newer)
    (newer / MARKER).unlink()
    broken = made.paths.checkpoints / "step-00000006"
    (broken / "optimizer.pt").write_bytes((broken / "optimizer.pt").read_bytes()[:100])  # copied by halves, marker and all
    made.paths.manifest.unlink()
    assert made.train() == "complete"
    assert made.manifest.resumed_from_step == 5
    assert made.weights == want
    assert "step-00000009" not in folders(made)


def test_the_marker_is_written_last(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = checkpoints.sync
    monkeypatch.setattr(checkpoints, "sync", lambda path: (written.append(path.name), real(path)))
    root(job_file(training={"max_steps": 1}, data={"eval": None})).train()
    assert written.index(MARKER) > max(written.index(name) for name in ("weights.safetensors", "optimizer.pt", "state.json"))


def test_checkpoints_of_another_job_are_refused(root: Any) -> None:
    made = root(job_file(training={"max_steps": 2}))
    made.train()
    other = root(job_file(training={"max_steps": 2, "learning_rate": 1e-4}))
    shutil.copytree(made.paths.checkpoints, other.paths.checkpoints)
    with pytest.raises(JobFailed, match="another recipe"):
        other.train()
    home = newest(made.paths.checkpoints, read_progress(made.paths.checkpoints / "step-00000002").job)
    assert home is not None
    assert is_complete(home)


def test_other_data_is_another_job() -> None:
    """Its checkpoints would go on with rows that the plan does not know."""
    job = job_file()
    (channel,) = job.train
    one, two = (job.model_copy(update={"train": (channel.model_copy(update={"sha256": letter * 64}),)}) for letter in "ab")
    assert digest(one) == digest(one.model_copy(update={"max_seconds": 60}))
    assert digest(one) != digest(two)


def test_a_second_try_that_fails_leaves_no_manifest_of_the_first(root: Any) -> None:
    made = root(job_file())
    made.paths.failure.parent.mkdir(exist_ok=True)
    made.paths.failure.write_text("of yesterday\n")
    assert made.train(StopAfter(9)) == "interrupted"
    assert not made.paths.failure.exists()
    (made.paths.inputs / made.job.train[0].path).unlink()
    with pytest.raises(JobFailed):
        made.train()
    assert not made.paths.manifest.exists()


def test_a_line_that_a_killed_run_left_unfinished_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"at": 1.0, "phase": "load", "elapsed_seconds": 0.0}\n{"at": 2.0, "pha')
    Report(path).row("train", step=1, total_steps=2, loss=1.0)
    assert [json.loads(line)["phase"] for line in path.read_text().splitlines()] == ["load", "train"]


def test_a_time_limit_saves_and_stops_and_is_not_taken_up_again(root: Any) -> None:
    made = root(job_file(training={"max_steps": 100_000}, max_seconds=2))
    assert made.train() == "stopped"
    assert made.manifest.outcome == "stopped"
    assert 0 < made.manifest.steps < 100_000
    assert made.manifest.eval_loss_after is not None
    assert made.manifest.seconds < 10
    steps = made.manifest.steps
    assert made.train() == "stopped"  # with the seconds of the first try counted
    assert made.manifest.steps == steps


def test_early_stopping_leaves_the_best_weights(root: Any) -> None:
    settings = {"max_steps": 60, "eval_steps": 2, "learning_rate": 0.03, "lr_scheduler": "constant", "early_stopping_patience": 2}
    made = root(job_file(training=settings), rows=ROWS["instruction"] * 2)
    assert made.train() == "complete"  # an end that the recipe asked for, and no limit that was run into
    losses = [row.eval_loss for row in made.metrics if row.eval_loss is not None]
    assert made.manifest.steps < 60
    assert made.manifest.eval_loss_after == pytest.approx(min(losses), abs=1e-5)
    best, without_gain = losses[0], 0
    for number, loss in enumerate(losses[1:], start=1):
        assert without_gain < 2, number  # a gain begins the count anew, so the run goes on over single setbacks
        best, without_gain = (loss, 0) if loss < best else (best, without_gain + 1)
    assert (best, without_gain) == (min(losses), 2)
    assert best < losses[0]
    from cloudtune_trainer.evaluate import evaluate

    assert evaluate(made.paths.model).difference < 1e-6
    weights, steps = made.weights, made.manifest.steps
    made.paths.manifest.unlink()  # as if it had been killed while it wrote the artifacts
    assert made.train() == "complete"
    assert (made.manifest.steps, made.weights) == (steps, weights)


def test_an_evaluation_that_was_broken_off_is_made_after_the_restart(root: Any) -> None:
    def evaluated(made: Any) -> list[int | None]:
        return [row.step for row in made.metrics if row.eval_loss is not None]

    settings = {"max_steps": 6, "eval_steps": 3, "save_steps": 3}
    whole, looks = root(job_file(training=settings)), 0
    whole.train()
    assert evaluated(whole) == [0, 3, 6]
    while True:
        looks += 1
        parted = root(job_file(training=settings))
        assert parted.train(StopAfter(looks)) == "interrupted"
        if parted.manifest.steps == 3 and evaluated(parted) == [0]:
            break
    assert parted.train() == "complete"
    assert evaluated(parted) == [0, 3, 6]
    assert parted.weights == whole.weights
