"""What the trainer is told: the recipe with every ``auto`` decided, and the layout on the machine.

``job.json`` is a ``JobFile``. It travels as data beside the image and holds no secret, no path of the
user's machine and no launch id (that comes in the environment), so equal plans give equal bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import DataSource, Frozen, PositiveInt, Recipe

CONTRACT_VERSION = 1


class Channel(Frozen):
    """A data file inside the job: ``path`` is relative to the input data folder."""

    path: str
    source: DataSource
    sha256: str | None = None
    """None when the data is fetched by the job itself (hub data sets, object stores)."""


class JobFile(Frozen):
    """The contract between launcher and trainer, version ``CONTRACT_VERSION``."""

    contract: Literal[1] = 1
    cloudtune_version: str
    recipe: Recipe
    """No value is ``auto`` any more; learning_rate, save_steps, eval_steps and the rest are numbers."""
    layout: Layout
    device: Literal["cuda", "cpu"]
    model_path: str | None = None
    """Folder of the base model relative to the input data folder; None when the job fetches it."""
    train: tuple[Channel, ...] = Field(strict=False)
    eval: tuple[Channel, ...] = Field(default=(), strict=False)
    """Empty when the evaluation rows are a fraction of the training rows, or there are none."""
    predicted_peak_bytes: int | None = None
    """The estimate that this run will be compared with, in bytes per GPU (host memory on the CPU)."""
    max_seconds: PositiveInt | None = None
    """Wall time after which the trainer saves and ends by itself."""
