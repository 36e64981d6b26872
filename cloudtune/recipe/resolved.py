"""What the trainer is told: the recipe with every ``auto`` decided, and the layout on the machine.

``job.json`` is a ``JobFile``. It travels as data beside the image and holds no secret, no path of the
user's machine and no launch id (that comes in the environment), so equal plans give equal bytes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cloudtune.recipe.spec import DataSource, Frozen, PositiveInt, Recipe

CONTRACT_VERSION = 1


class Layout(Frozen):
    """How the work lies on the GPUs. ``gpus`` are per node; 0 means the CPU."""

    nodes: PositiveInt = 1
    gpus: Annotated[int, Field(ge=0)] = 1
    micro_batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    gradient_checkpointing: bool
    sharding: Literal["none", "ddp", "fsdp"] = "none"
    cpu_offload: bool = False

    @property
    def data_parallel(self) -> int:
        """Number of workers that each hold a micro batch."""
        return self.nodes * max(1, self.gpus)

    @property
    def batch_size(self) -> int:
        """Sequences per optimizer step over all workers."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel


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
