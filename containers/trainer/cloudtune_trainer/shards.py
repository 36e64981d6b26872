"""Checkpoints of a sharded model: one file per worker, and one marker that names them all. Changes no weight but by ``load``.

    checkpoints/step-00000040/  shard-00000-of-00002.safetensors  shard-00001-of-00002.safetensors  state.json  COMPLETE

Machines need not share a disk: each writes its own workers' files and the same marker, so a folder is complete only where
all files have come together, as the platforms bring them together before a restart. Any number of workers can read what
any number wrote, since a worker's rows of a weight follow from its rank alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cloudtune.errors import JobFailed
from cloudtune_trainer import checkpoints
from cloudtune_trainer.checkpoints import Progress
from cloudtune_trainer.sharding import as_shard
from cloudtune_trainer.workers import Workers

WEIGHT = "weight/"
STATE = "state/"


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, progress: Progress, workers: Workers) -> Path:
    """Write the checkpoint of ``progress.step`` together with all other workers."""
    home = checkpoints.home_of(folder, progress.step)
    if workers.keeps:
        home.mkdir(parents=True, exist_ok=True)
    workers.wait()
    mine = home / file_name("shard", workers)
    save_file({**_weights(model), **_states(model, optimizer)}, mine)
    checkpoints.sync(mine)
    told = workers.gather((mine.name, mine.stat().st_size, asdict(progress)))
    if workers.keeps:
        # Every machine writes the first worker's words: clocks differ, and the marker names sizes.
        (home / checkpoints.PROGRESS).write_text(json.dumps(told[0][2]), encoding="utf-8")
        checkpoints.sync(home / checkpoints.PROGRESS)
        checkpoints.complete(home, {name: size for name, size, _ in told})
        checkpoints.forget_old(folder)
    workers.wait()
    return home


def save_best(folder: Path, model: Any, workers: Workers) -> None:
    """Write this worker's part of the best weights so far."""
    place = folder / file_name("best", workers)
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(_weights(model), place.with_suffix(".tmp"))
    checkpoints.sync(place.with_suffix(".tmp"))
    place.with_suffix(".tmp").replace(place)


def has_best(folder: Path, workers: Workers) -> bool:
    """Whether every worker's part of the best weights is there."""
    return not workers.any(not _files(folder, "best", workers))


def load(home: Path, model: Any, optimizer: torch.optim.Optimizer, workers: Workers) -> None:
    """Put a complete checkpoint into model and optimizer. Raises JobFailed when it is of another kind of layout."""
    with _Parts(home, "shard", workers) as parts:
        load_weights(parts, model, workers)
        states: dict[int, dict[str, Any]] = {}
        for index, (name, weight) in enumerate(_in_order(model, optimizer)):
            keys = [key for key in parts.names if key.startswith(STATE) and key.endswith(f"/{name}")]
            if keys:
                states[index] = {key.split("/")[1]: parts.like(key, weight, workers) for key in keys}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def load_best(folder: Path, model: Any, workers: Workers) -> None:
    """Put the best weights back."""
    with _Parts(folder, "best", workers) as parts:
        load_weights(parts, model, workers)


def load_weights(parts: _Parts, model: Any, workers: Workers) -> None:
    """Copy saved rows into the trainable weights."""
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if {f"{WEIGHT}{name}" for name in own} != {key for key in parts.names if key.startswith(WEIGHT)}:
        raise JobFailed("the checkpoint has other weights than the model", where=str(parts.folder), hint="remove the checkpoints")
    with torch.no_grad():
        for name, weight in own.items():
            weight.to_local().copy_(parts.like(f"{WEIGHT}{name}", weight, workers).to_local())


def file_name(kind: str, workers: Workers) -> str:
    """The name of this worker's file."""
    return f"{kind}-{workers.rank:05d}-of-{workers.count:05d}.safetensors"


def _files(folder: Path, kind: str, workers: Workers) -> list[Path]:
    """All workers' files in the order of their ranks: of this many workers, or else of any other number of which all are there."""
    for count in dict.fromkeys((workers.count, *sorted({int(path.stem[-5:]) for path in folder.glob(f"{kind}-*-of-*.safetensors")}))):
        found = [folder / f"{kind}-{rank:05d}-of-{count:05d}.safetensors" for rank in range(count)]
        if all(path.exists() for path in found):
            return found
    return []


class _Parts:
    """The files of one set, read by rows."""

    def __init__(self, folder: Path, kind: str, workers: Workers) -> None:
        self.folder = folder
        files = _files(folder, kind, workers)
        if not files:
            hint = "go on with the layout that it was written with, or remove the checkpoints"
            raise JobFailed("the checkpoint was not written by sharded workers", where=str(folder), hint=hint)
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(safe_open(path, framework="pt")) for path in files]
        self.names = list(self._files[0].keys())

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def like(self, key: str, weight: Any, workers: Workers) -> Any:
        """The saved tensor as a shard like ``weight``; a single number as it is."""
        if not self._files[0].get_slice(key).get_shape():
            return self._files[0].get_tensor(key)
        total, own = weight.shape[0], -(-weight.shape[0] // workers.count)
        start = min(total, own * workers.rank)
        stop = min(total, start + own)
        pieces = [file.get_slice(key)[first:last] for file, first, last in self._rows(total, start, stop)]
        local = torch.cat(pieces) if pieces else torch.empty((0, *weight.shape[1:]), dtype=weight.dtype)
        return as_shard(local.to(weight.to_local().device), weight)

    def _rows(self, total: int, start: int, stop: int) -> Iterator[tuple[Any, int, int]]:
        """(file, first row in it, row behind the last) that make up rows ``start`` to ``stop``."""
        each = -(-total // len(self._files))
        for index, file in enumerate(self._files):
            first, last = max(start, index * each), min(stop, (index + 1) * each, total)
            if first < last:
                yield file, first - index * each, last - index * each


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {f"{WEIGHT}{name}": _plain(weight) for name, weight in model.named_parameters() if weight.requires_grad}


def _states(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{STATE}{kind}/{name}": _plain(value)
        for name, weight in _in_order(model, optimizer)
        for kind, value in optimizer.state[weight].items()
    }


def _in_order(model: Any, optimizer: torch.optim.Optimizer) -> list[tuple[str, Any]]:
    """(name, weight) as the optimizer numbers them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [(names[id(weight)], weight) for group in optimizer.param_groups for weight in group["params"]]


def _plain(value: Any) -> torch.Tensor:
    """A shard, or a number that everybody has, in host memory."""
    local: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local.detach().cpu().clone().contiguous()
