"""Metrics sent to TensorBoard, Weights & Biases or MLflow besides ``metrics.jsonl``. Each library is loaded only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudtune.errors import JobFailed
from cloudtune.manifest import MetricsRow
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.report import Tracker

_NUMBERS = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch")


def open_trackers(job: JobFile, paths: Paths) -> list[Tracker]:
    """One sender per name in ``tracking.report_to``. Raises JobFailed when a library is not in this image."""
    makers: dict[str, Callable[[JobFile, Paths], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    found = []
    for name in job.recipe.tracking.report_to:
        try:
            found.append(makers[name](job, paths))
        except ImportError as error:
            raise JobFailed(
                f"tracking.report_to names {name}, which is not installed here", hint=f"pip install {name}, or leave it out"
            ) from error
    return found


def _numbers(row: MetricsRow) -> dict[str, float]:
    return {name: value for name in _NUMBERS if (value := getattr(row, name)) is not None}


def _tensorboard(_job: JobFile, paths: Paths) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(paths.metrics.parent / "tensorboard"))

    def send(row: MetricsRow) -> None:
        for name, value in _numbers(row).items() if row.step is not None else ():
            writer.add_scalar(name, value, row.step)
        writer.flush()

    return send


def _wandb(job: JobFile, paths: Paths) -> Tracker:
    import wandb

    project = job.recipe.tracking.project or "cloudtune"
    # The launch id as run id: a resumed job goes on in the same run.
    run = wandb.init(project=project, id=paths.launch_id, name=paths.launch_id, resume="allow", config=job.recipe.model_dump(mode="json"))

    def send(row: MetricsRow) -> None:
        if row.step is not None and _numbers(row):
            run.log({**_numbers(row), "step": row.step})
        if row.phase == "done":
            run.finish()

    return send


def _mlflow(job: JobFile, paths: Paths) -> Tracker:
    import mlflow

    mlflow.set_experiment(job.recipe.tracking.project or "cloudtune")
    mlflow.start_run(run_name=paths.launch_id)

    def send(row: MetricsRow) -> None:
        if row.step is not None and _numbers(row):
            mlflow.log_metrics(_numbers(row), step=row.step)
        if row.phase == "done":
            mlflow.end_run()

    return send
