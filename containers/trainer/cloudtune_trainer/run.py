"""What every part of a run shares: the orders and surroundings, and the material that is trained on. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.batches import Group, Hiding
from cloudtune_trainer.checkpoints import Progress
from cloudtune_trainer.data import Data
from cloudtune_trainer.model import Base
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.peaks import Peaks
from cloudtune_trainer.report import Report
from cloudtune_trainer.surroundings import StopSign
from cloudtune_trainer.tokens import Sequence
from cloudtune_trainer.workers import Workers

Outcome = Literal["complete", "interrupted", "stopped"]


@dataclass(frozen=True, slots=True)
class Run:
    """What every part of a run needs: the orders, the folders, and the process's surroundings."""

    job: JobFile
    paths: Paths
    workers: Workers
    report: Report
    peaks: Peaks
    stop: StopSign
    started: float


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on: the base's place, tokenizer, sequences, lines of batches, and the number of steps that makes."""

    base: Base
    tokenizer: Any
    pad: int
    data: Data
    groups: list[Group]
    hiding: Hiding | None
    evaluation: list[list[Sequence]]
    total_steps: int


def epochs(run: Run, material: Material, progress: Progress) -> float:
    """Passes over the data so far."""
    return round(progress.step * run.job.layout.batch_size / len(material.groups), 4)
