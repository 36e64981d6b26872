"""Proof that what was saved can be used: load it in a new process and measure the evaluation loss again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloudtune.errors import JobFailed
from cloudtune.recipe.examination import FOLDER, RELOADED_NAME, Reloaded
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.artifacts import EVAL_SET_NAME, read_eval_set, result_folder
from cloudtune_trainer.orders import read_orders
from cloudtune_trainer.paths import Paths


def reload(paths: Paths) -> None:
    """Write ``output/rehearsal/reloaded.json``: one entry for the result, one for the merged model if there is one."""
    job = read_orders(paths.job_file)
    manifest = json.loads(paths.manifest.read_bytes())
    expected = manifest.get("eval_loss_after")
    if expected is None or not (paths.model / EVAL_SET_NAME).exists():
        raise JobFailed("the run left no evaluation to compare with")
    found = [_measure(job, paths, "full" if result_folder(job, paths).name == "full" else "adapter", expected)]
    if (paths.model / "merged").is_dir():
        found.append(_measure(job, paths, "merged", expected))
    folder = paths.root / "output" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RELOADED_NAME).write_text(json.dumps([item.model_dump() for item in found]))


def _measure(job: JobFile, paths: Paths, kind: str, expected: float) -> Reloaded:
    model, tokenizer = _load(job, paths, kind)
    loss = _eval_loss(job, model, tokenizer, paths.model / EVAL_SET_NAME)
    return Reloaded(kind=kind, eval_loss=loss, expected=expected, tensors=len(model.state_dict()))  # type: ignore[arg-type]


def _load(job: JobFile, paths: Paths, kind: str) -> tuple[Any, Any]:
    """The model as a user would load it: base and adapter through peft, or the full folder by itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    from cloudtune_trainer.model import Base, load_base

    home = paths.model / kind
    tokenizer = AutoTokenizer.from_pretrained(paths.model / ("full" if kind == "full" else "adapter"))
    if kind == "adapter":
        from peft import PeftModel

        base = load_base(job, Base(str(paths.inputs / str(job.model_path)), None), torch.device("cpu"))
        return PeftModel.from_pretrained(base, str(home)), tokenizer
    auto = AutoModelForMaskedLM if job.recipe.task == "masked_lm" else AutoModelForCausalLM
    return auto.from_pretrained(home, dtype=torch.float32), tokenizer


def _eval_loss(job: JobFile, model: Any, tokenizer: Any, eval_set: Path) -> float:
    import torch

    from cloudtune_trainer.evaluation import eval_batches, mean_loss
    from cloudtune_trainer.loss import TokenLoss
    from cloudtune_trainer.model import autocast, pad_id
    from cloudtune_trainer.surroundings import StopSign
    from cloudtune_trainer.workers import Workers

    torch.set_num_threads(1)
    loss = TokenLoss(model, causal=job.recipe.task == "causal_lm", chunked=False)
    batches = eval_batches(read_eval_set(eval_set), 1)
    workers = Workers(0, 1, torch.device("cpu"))
    measured = mean_loss(loss, batches, pad_id(tokenizer), workers, autocast(job), StopSign())
    if measured is None:
        raise JobFailed("the evaluation was interrupted")
    return float(measured)
