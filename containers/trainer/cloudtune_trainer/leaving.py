"""The end of a run: artifacts, merged model, upload, manifest last. Trains nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from cloudtune.manifest import Manifest
from cloudtune.recipe.spec import FullMethod
from cloudtune_trainer import artifacts, merge
from cloudtune_trainer.batches import causal_batch
from cloudtune_trainer.checkpoints import Progress
from cloudtune_trainer.learner import Learner
from cloudtune_trainer.model import result_dtype
from cloudtune_trainer.run import Material, Outcome, Run, epochs
from cloudtune_trainer.sharding import parameters_of, whole_state


def leave(run: Run, outcome: Outcome, material: Material | None, learner: Learner | None, progress: Progress, resumed: int | None) -> None:
    """Artifacts, copies of the records, manifest; all written by the first worker. Without a learner no model was loaded."""
    if run.workers.first:
        run.paths.model.mkdir(parents=True, exist_ok=True)
    sizes = Sizes() if learner is None else Sizes.of(learner.model)
    if material is not None and learner is not None:
        run.report.row("save", step=progress.step, total_steps=material.total_steps, message="writing the artifacts")
        with run.peaks.phase("save"):
            _save(run, material, learner)
            if run.job.recipe.output.merge and outcome != "interrupted":
                _merge(run, material, learner)
    if run.workers.first:
        if run.job.recipe.output.push_to_hub is not None and outcome == "complete":
            run.report.row("save", message=f"uploaded to {artifacts.upload(run.job, run.paths)}")
        run.report.row("done", message=_farewell(outcome, progress))
        artifacts.copy_records(run.paths)
        artifacts.write_manifest(run.paths.manifest, _manifest(run, outcome, material, sizes, progress, resumed))
    run.workers.wait()


def _save(run: Run, material: Material, learner: Learner) -> None:
    """The trained weights and the evaluation set. Of a sharded model every worker sends its part to the first."""
    state = None
    if learner.sharded:
        full = isinstance(run.job.recipe.method, FullMethod)
        state = whole_state(learner.model, run.workers, trained_only=not full, dtype=result_dtype(run.job) if full else None)
    if run.workers.first:
        artifacts.save_model(run.job, run.paths, learner.model, material.tokenizer, state)
        artifacts.save_eval_set(run.paths.model / artifacts.EVAL_SET_NAME, material.data.evaluation)


def _merge(run: Run, material: Material, learner: Learner) -> None:
    run.report.row("save", message="merging base and adapter")
    lines = material.groups[:1]
    if run.workers.first or learner.sharded:
        reference = learner.ask(lambda model: merge.probe(run.job, model, causal_batch(lines, material.pad, run.workers.device)))
    if run.workers.first:
        home = run.paths.model / "merged"
        merge.save_merged(run.job, material.base, artifacts.result_folder(run.job, run.paths), home)
        material.tokenizer.save_pretrained(home)
        error = merge.merge_error(run.job, home, causal_batch(lines, material.pad, torch.device("cpu")), reference)
        run.report.row("save", message=f"merged; read back, its logits differ from the adapter's by at most {error:.2g}")


def _farewell(outcome: Outcome, progress: Progress) -> str:
    if progress.eval_loss_before is None or progress.eval_loss is None:
        return outcome
    return f"{outcome}; eval loss {progress.eval_loss_before:.4f} before, {progress.eval_loss:.4f} after"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of weights, counted before the model is taken apart."""

    trainable: int = 0
    total: int = 0

    @classmethod
    def of(cls, model: Any) -> Sizes:
        """Sizes of a model, sharded or not."""
        weights = list(parameters_of(model))
        return cls(sum(count for weight, count in weights if weight.requires_grad), sum(count for _, count in weights))


def _manifest(run: Run, outcome: Outcome, material: Material | None, sizes: Sizes, progress: Progress, resumed: int | None) -> Manifest:
    recipe = run.job.recipe
    found = None if material is None else material.data
    at_end = progress.eval_loss_step == progress.step
    return Manifest(
        outcome=outcome,
        launch_id=run.paths.launch_id,
        recipe_name=recipe.name,
        method=recipe.method.type,
        base_model=recipe.model.base,
        steps=progress.step,
        total_steps=0 if material is None else material.total_steps,
        epochs=0.0 if material is None else epochs(run, material, progress),
        train_loss=progress.loss_sum / progress.trained_tokens if progress.trained_tokens else None,
        eval_loss_before=progress.eval_loss_before,
        eval_loss_after=progress.eval_loss if at_end else None,
        eval_rows=0 if found is None else found.eval_rows,
        train_rows=0 if found is None else found.train_rows,
        dropped_rows=0 if found is None else found.dropped_rows,
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        seconds=round(progress.seconds or time.monotonic() - run.started, 2),
        train_seconds=round(progress.train_seconds, 2),
        trainable_parameters=sizes.trainable,
        total_parameters=sizes.total,
        peak_memory=run.peaks.summary(),
        predicted_peak_bytes=run.job.predicted_peak_bytes,
        versions=artifacts.versions(),
        resumed_from_step=resumed,
        artifacts=artifacts.list_artifacts(run.paths.model),
    )
