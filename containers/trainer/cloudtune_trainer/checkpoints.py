"""Checkpoints that are whole or do not count. A folder is complete when its marker, written last, names every file's size.

    checkpoints/step-00000040/  weights.safetensors  optimizer.pt  state.json  COMPLETE

Weights are the trainable ones only. Everything random is a function of (seed, step), so no random state is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cloudtune.errors import JobFailed

MARKER = "COMPLETE"
KEPT = 2
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is; everything of it that a resumed run must know. Seconds add up over restarts."""

    job: str
    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    loss_sum: float = 0.0
    """Nats over all trained tokens."""
    seconds: float = 0.0
    train_seconds: float = 0.0
    eval_loss_before: float | None = None
    eval_loss: float | None = None
    eval_loss_step: int | None = None
    best_eval_loss: float | None = None
    evaluations_without_gain: int = 0


def save(folder: Path, model: Any, optimizer_state: dict[str, Any], progress: Progress) -> Path:
    """Write the checkpoint of ``progress.step``, which must not be there yet, and forget all but the newest ``KEPT``."""
    home = _home(folder, progress.step)
    home.mkdir(parents=True)
    save_file(trainable(model), home / "weights.safetensors")
    torch.save(optimizer_state, home / "optimizer.pt")
    (home / "state.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for path in home.iterdir():
        sync(path)
    sizes = {path.name: path.stat().st_size for path in sorted(home.iterdir())}
    (home / MARKER).write_text(json.dumps(sizes), encoding="utf-8")
    sync(home / MARKER)
    sync(home)
    for old in _all(folder)[:-KEPT]:
        # The marker goes first: a folder that is half deleted must not look complete.
        (old / MARKER).unlink(missing_ok=True)
        shutil.rmtree(old)
    return home


def exists(folder: Path, step: int) -> bool:
    """Whether a complete checkpoint of ``step`` is there."""
    return is_complete(_home(folder, step))


def newest(folder: Path, job: str, *, tidy: bool = True) -> Path | None:
    """The newest complete checkpoint; incomplete ones are removed (``tidy``). Raises JobFailed when it belongs to another job."""
    found = None
    for home in _all(folder):
        if is_complete(home):
            found = home
        elif tidy:
            shutil.rmtree(home)
    if found is not None and read_progress(found).job != job:
        hint = "give the job an empty folder, or remove its checkpoints"
        raise JobFailed("the checkpoints here were made by another recipe or other data", where=str(found), hint=hint)
    return found


def read_progress(home: Path) -> Progress:
    """The progress that a complete checkpoint was made at."""
    return Progress(**json.loads((home / "state.json").read_text(encoding="utf-8")))


def read_optimizer(home: Path, device: torch.device) -> dict[str, Any]:
    """The optimizer state of a complete checkpoint."""
    state: dict[str, Any] = torch.load(home / "optimizer.pt", map_location=device, weights_only=True)
    return state


def restore_weights(path: Path, model: Any, device: torch.device) -> None:
    """Copy saved trainable weights into ``model``. Raises JobFailed when they are of another shape of model."""
    saved = load_file(path, device=str(device))
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if saved.keys() != own.keys():
        raise JobFailed("the checkpoint has other weights than the model", where=str(path), hint="remove the checkpoints")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(saved[name])


def save_weights(path: Path, model: Any) -> None:
    """Write the trainable weights alone, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file(trainable(model), unfinished)
    sync(unfinished)
    unfinished.replace(path)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """Name → trainable weight, without the tied copies."""
    return {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}


def is_complete(home: Path) -> bool:
    """Whether the marker is there and every file has the size it names (an object store may copy files out of order)."""
    try:
        sizes = json.loads((home / MARKER).read_text(encoding="utf-8"))
        return all((home / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _home(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:08d}"


def _all(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, complete or not."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()) if folder.is_dir() else []
