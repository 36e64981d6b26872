"""``python -m cloudtune_trainer.evaluate RUN_DIR``: load a collected result in a new process and evaluate it again.

    python -m cloudtune_trainer.evaluate runs/quickstart-ab12cd34ef --json

RUN_DIR holds what the manifest names: job.json, adapter/ (or full/) and eval_set.jsonl. The held-out rows come from the
latter, or with --data from the original files. Exit 0 when the loss is the manifest's to 1e-4, 1 when not. Writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloudtune.errors import CloudtuneError, JobFailed
from cloudtune.manifest import MANIFEST_NAME, Manifest
from cloudtune.recipe.resolved import Channel, JobFile
from cloudtune_trainer import surroundings
from cloudtune_trainer.orders import read_orders
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.report import say

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Losses in nats per learned token; ``base_loss`` is the model without the adapter (None for full training)."""

    eval_loss: float
    base_loss: float | None
    manifest_eval_loss: float | None
    difference: float | None
    rows: int
    device: str


def main(arguments: list[str] | None = None) -> int:
    """Parse ``arguments``, evaluate, print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cloudtune_trainer.evaluate", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a collected result")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="the original data files, in the order of the recipe")
    parser.add_argument("--base", metavar="FOLDER", help="where the base model lies now, if not where the adapter says")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    try:
        result = evaluate(given.run_dir, data=given.data, base=given.base)
    except CloudtuneError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say(json.dumps(asdict(result)) if given.json else _sentence(result))
    return 0 if result.difference is None or result.difference <= TOLERANCE else 1


def _sentence(result: Evaluated) -> str:
    text = f"eval loss {result.eval_loss:.6f} over {result.rows} rows on {result.device}"
    if result.base_loss is not None:
        text += f"; the base alone {result.base_loss:.6f}"
    if result.difference is not None:
        text += f"; the manifest says {result.manifest_eval_loss:.6f}, a difference of {result.difference:.1e}"
    return text


def evaluate(run_dir: Path, *, data: list[Path] | None = None, base: str | None = None) -> Evaluated:
    """Evaluate the result in ``run_dir``. Raises JobFailed when something is missing."""
    job = read_orders(run_dir / "job.json")
    surroundings.prepare(job)
    import torch

    device = torch.device("cuda" if job.device == "cuda" and torch.cuda.is_available() else "cpu")
    job = job.model_copy(update={"device": device.type})
    surroundings.use_threads(job)
    surroundings.quiet_transformers()
    model, place = _load(job, run_dir, base, device)
    sequences = _sequences(job, run_dir, place, data)
    loss = loss_of(job, model, sequences, device)
    base_loss = None
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            base_loss = loss_of(job, model, sequences, device)
    told = Manifest.model_validate_json((run_dir / MANIFEST_NAME).read_bytes()).eval_loss_after
    rows = len({sequence.row for sequence in sequences})
    return Evaluated(loss, base_loss, told, None if told is None else abs(told - loss), rows, device.type)


def _load(job: JobFile, run_dir: Path, base: str | None, device: Any) -> tuple[Any, Any]:
    from cloudtune_trainer.model import Base, load_base

    if (run_dir / "full").is_dir():
        place = Base(str(run_dir / "full"), None)
        return load_base(job, place, device), place
    from peft import PeftModel

    settings = json.loads((run_dir / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    place = Base(base or settings["base_model_name_or_path"], None if base else settings.get("revision"))
    return PeftModel.from_pretrained(load_base(job, place, device), run_dir / "adapter"), place


def _sequences(job: JobFile, run_dir: Path, place: Any, files: list[Path] | None) -> tuple[Any, ...]:
    from cloudtune_trainer.artifacts import EVAL_SET_NAME, read_eval_set

    if files is None:
        stored = run_dir / EVAL_SET_NAME
        if not stored.is_file():
            raise JobFailed("the run keeps no evaluation set", where=str(stored), hint="name the original files with --data")
        return read_eval_set(stored)
    return _from_files(job, run_dir, place, files)


def _from_files(job: JobFile, run_dir: Path, place: Any, files: list[Path]) -> tuple[Any, ...]:
    """The held-out rows made anew from the original files, checked against the digests of the plan."""
    from cloudtune_trainer.train import tokenised

    channels = job.eval or job.train
    if len(files) != len(channels):
        raise JobFailed(f"the job has {len(channels)} data files, {len(files)} are named")
    moved = tuple(
        Channel(path=str(file.absolute()), source=channel.source, sha256=channel.sha256)
        for file, channel in zip(files, channels, strict=True)
    )
    paths = Paths.from_environment({**os.environ, "CLOUDTUNE_ROOT": str(run_dir)})
    here = job.model_copy(update={"train": moved, "eval": moved if job.eval else ()})
    _, found, _ = tokenised(here, paths, place)
    return found.evaluation


def loss_of(job: JobFile, model: Any, sequences: tuple[Any, ...], device: Any) -> float:
    """Mean nats per learned token of ``sequences``, in the precision and micro batches of ``job``."""
    from cloudtune_trainer.evaluation import eval_batches, mean_loss
    from cloudtune_trainer.loss import TokenLoss
    from cloudtune_trainer.model import autocast
    from cloudtune_trainer.workers import Workers

    wrapped = TokenLoss(model, causal=job.recipe.task == "causal_lm", chunked=job.recipe.training.fused_loss is True)
    batches = eval_batches(sequences, job.layout.micro_batch_size)
    loss = mean_loss(wrapped, batches, 0, Workers(0, 1, device), autocast(job), surroundings.StopSign())
    if loss is None:
        raise JobFailed("the evaluation was interrupted")
    return loss


if __name__ == "__main__":
    sys.exit(main())
