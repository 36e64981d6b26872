"""Checkpoints that are whole or do not count. A folder is complete when its marker, written last, names every file's size.

    checkpoints/step-00000040/  weights.safetensors  optimizer.pt  state.json  COMPLETE

Weights are the trainable ones only. Everything random is a function of (seed, step), so no random state is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cloudtune.errors import JobFailed
from cloudtune_trainer.workers import Workers

MARKER = "COMPLETE"
PROGRESS = "state.json"
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
    home = home_of(folder, progress.step)
    home.mkdir(parents=True)
    save_file(trainable(model), home / "weights.safetensors")
    torch.save(optimizer_state, home / "optimizer.pt")
    (home / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for path in home.iterdir():
        sync(path)
    complete(home, {})
    forget_old(folder)
    return home


def complete(home: Path, elsewhere: Mapping[str, int]) -> None:
    """Write the marker, which names the size of every file here and of those that are being written ``elsewhere``."""
    sizes = {path.name: path.stat().st_size for path in home.iterdir()}
    (home / MARKER).write_text(json.dumps(dict(sorted({**sizes, **elsewhere}.items()))), encoding="utf-8")
    sync(home / MARKER)
    sync(home)


def forget_old(folder: Path) -> None:
    """Remove all but the newest ``KEPT``."""
    for old in _all(folder)[:-KEPT]:
        # The marker goes first: a folder that is half deleted must not look complete.
        (old / MARKER).unlink(missing_ok=True)
        shutil.rmtree(old)


def exists(folder: Path, step: int) -> bool:
    """Whether the checkpoint of ``step`` bears its marker: what this machine writes of it is written."""
    return (home_of(folder, step) / MARKER).exists()


def newest(folder: Path, job: str, workers: Workers | None = None) -> Path | None:
    """The newest checkpoint that is complete for every worker; incomplete ones are removed, by one worker of a machine.

    Raises JobFailed when it belongs to another job. Machines may have got different ones back before a restart.
    """
    whole = [home for home in _all(folder) if is_complete(home)]
    for home in _all(folder):
        if home not in whole and (workers is None or workers.keeps):
            shutil.rmtree(home, ignore_errors=True)
    names = [{home.name for home in whole}]
    common = set.intersection(*(names if workers is None else workers.gather(names[0])))
    found = folder / max(common) if common else None
    if found is not None and read_progress(found).job != job:
        hint = "give the job an empty folder, or remove its checkpoints"
        raise JobFailed("the checkpoints here were made by another recipe or other data", where=str(found), hint=hint)
    return found


def read_progress(home: Path) -> Progress:
    """The progress that a complete checkpoint was made at."""
    return Progress(**json.loads((home / PROGRESS).read_text(encoding="utf-8")))


def read_optimizer(home: Path, device: torch.device) -> dict[str, Any]:
    """The optimizer state of a complete checkpoint."""
    state: dict[str, Any] = torch.load(home / "optimizer.pt", map_location=device, weights_only=True)
    return state


def restore_weights(path: Path, model: Any, device: torch.device) -> None:
    """Copy saved trainable weights into ``model``. Raises JobFailed when they are of another shape of model."""
    if not path.exists():
        hint = "go on with the layout that it was written with, or remove the checkpoints"
        raise JobFailed("the checkpoint was written by sharded workers", where=str(path.parent), hint=hint)
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


def home_of(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return folder / f"{_PREFIX}{step:08d}"


def _all(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, complete or not."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()) if folder.is_dir() else []
