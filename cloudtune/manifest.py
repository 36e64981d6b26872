"""What the trainer must leave behind: ``manifest.json``, written last, and the rows of ``metrics.jsonl``. Pure values.

Read leniently (``extra="ignore"``) so that a newer trainer does not break an older launcher, written strictly.
The manifest names every artifact with its size and sha256; a file it does not name does not exist for us.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"
METRICS_NAME = "metrics.jsonl"
FAILURE_NAME = "failure"


class _Written(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Artifact(_Written):
    """One file: ``path`` is relative to the manifest's folder, with forward slashes."""

    path: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PeakMemory(_Written):
    """Measured peaks in bytes. On CUDA: the allocator's counters of the busiest GPU and the device's; on the CPU: resident set."""

    device: Literal["cuda", "cpu"]
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    host_rss_bytes: int | None = None
    by_phase: dict[str, int] = {}
    """Peak per phase (load, train, eval, save): allocated bytes on CUDA, resident bytes on the CPU."""


class Manifest(_Written):
    """The job's own account of itself. Losses are mean nats per learned token; times are seconds of wall clock."""

    contract: Literal[1] = 1
    outcome: Literal["complete", "interrupted", "stopped"]
    """complete: all steps done, or ended by early stopping; interrupted: ended by SIGTERM after a checkpoint; stopped: by a time limit."""
    launch_id: str
    recipe_name: str
    method: str
    base_model: str
    steps: int
    total_steps: int
    epochs: float
    train_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    eval_rows: int = 0
    train_rows: int = 0
    dropped_rows: int = 0
    tokens: int = 0
    """Tokens of all sequences trained on, prompts included."""
    trained_tokens: int = 0
    """Tokens that entered the loss."""
    seconds: float
    train_seconds: float | None = None
    trainable_parameters: int = 0
    total_parameters: int = 0
    peak_memory: PeakMemory
    predicted_peak_bytes: int | None = None
    versions: dict[str, str]
    resumed_from_step: int | None = None
    artifacts: tuple[Artifact, ...] = Field(strict=False)


class MetricsRow(_Written):
    """One line of ``metrics.jsonl``. ``at`` is Unix seconds; phases are prepare, load, tokenize, train, eval, save, done."""

    at: float
    phase: str
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    elapsed_seconds: float | None = None
    eta_seconds: float | None = None
    message: str = ""
