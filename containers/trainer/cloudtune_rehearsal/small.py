"""The shrunk job: a small model of the real one's class with random weights, sampled rows, few steps. Trains nothing."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudtune.errors import JobFailed
from cloudtune.recipe.examination import RehearsalOrders
from cloudtune.recipe.locations import is_builtin
from cloudtune.recipe.resolved import Channel, JobFile
from cloudtune.recipe.spec import DataSource, FullMethod
from cloudtune_rehearsal.examine import Kept
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.quickstart import _texts, _tokenizer

MODEL = "model"
_MARKER = re.compile(r"<\|?/?[A-Za-z][A-Za-z0-9_]*\|?>")
_KNOWN_MARKERS = ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
BATCH = 2


def put_tokenizer(orders: RehearsalOrders, own: Path, target: Path, template: str | None) -> bool:
    """Save the tokenizer into ``target``: the model's own, or the quickstart's. True when it only stands in."""
    from transformers import AutoTokenizer

    if orders.own_tokenizer:
        AutoTokenizer.from_pretrained(own, trust_remote_code=orders.job.recipe.model.trust_remote_code).save_pretrained(target)
        return False
    tokenizer = _tokenizer(_texts())
    if not is_builtin(orders.job.recipe.model.base):
        # The template's markers become tokens, as they are in the real tokenizer; which ones is all that is known of it.
        named = orders.job.recipe.data.special_tokens.values()
        markers = dict.fromkeys([*_KNOWN_MARKERS, *named, *_MARKER.findall(template or "")])
        words = {"bos_token": "<|begin_of_text|>", **({"mask_token": "<|mask|>"} if orders.job.recipe.task == "masked_lm" else {})}
        tokenizer.add_special_tokens({"extra_special_tokens": list(markers), **words})
    tokenizer.save_pretrained(target)
    return not is_builtin(orders.job.recipe.model.base)


def put_model(orders: RehearsalOrders, tokenizer: Any, target: Path) -> tuple[str, int]:
    """Build the small model and save it into ``target``; its class and number of parameters.

    Raises JobFailed when transformers cannot build this kind of model small.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    values = {**orders.config, "vocab_size": len(tokenizer), "dtype": "float32"}
    values.update({f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "bos", "eos")})
    kind = AutoModelForMaskedLM if orders.job.recipe.task == "masked_lm" else AutoModelForCausalLM
    model_type = str(values.pop("model_type"))
    try:
        config = AutoConfig.for_model(model_type, **values)
        if hasattr(config, "vocab_size_per_layer_input"):
            config.vocab_size_per_layer_input = len(tokenizer)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(orders.job.recipe.training.seed)
            model = kind.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise JobFailed(f"no small model of type {model_type} can be built: {str(error).splitlines()[0][:200]}") from error
    model.save_pretrained(target)
    return type(model).__name__, sum(weight.numel() for weight in model.parameters())


def small_job(orders: RehearsalOrders, train: list[Kept], evaluation: list[Kept], paths: Paths) -> JobFile:
    """The real job with the small model, the sampled rows (written here) and few steps; what decides the code path stays."""
    job = orders.job
    train, evaluation = _early(train, 2), _early(evaluation, 1)
    channels = _write_rows("train", train, paths)
    held = _write_rows("eval", evaluation, paths) if evaluation else ()
    fraction = 0.25 if len(train) > 1 else None
    recipe = job.recipe
    data = {
        "train": tuple(channel.source for channel in channels),
        "eval": tuple(channel.source for channel in held) or fraction,
        "max_length": min(recipe.data.max_length, orders.most_tokens),
        # Prompts longer than all that the small model reads: it learns them, as it never comes to their answers.
        "loss_on": recipe.data.loss_on if all(kept.early for kept in (*train, *evaluation)) else "all",
    }
    training = {
        "max_steps": orders.steps,
        "epochs": None,
        "batch_size": BATCH,
        "micro_batch_size": 1,
        "save_steps": max(1, orders.steps // 4),
        "eval_steps": max(1, orders.steps // 2),
        "early_stopping_patience": None,
    }
    attention = "sdpa" if recipe.model.attention == "flash_attention_2" else recipe.model.attention
    merge = not isinstance(recipe.method, FullMethod) and recipe.task != "masked_lm"
    small = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"base": MODEL, "revision": "main", "attention": attention}),
            "data": recipe.data.model_copy(update=data),
            "training": recipe.training.model_copy(update=training),
            "tracking": recipe.tracking.model_copy(update={"report_to": ()}),
            "output": recipe.output.model_copy(update={"merge": merge, "push_to_hub": None}),
            "secrets": {},
        }
    )
    layout = replace(
        job.layout,
        nodes=1,
        gpus=0,
        micro_batch_size=1,
        gradient_accumulation_steps=BATCH,
        sharding="none",
        cpu_offload=False,
    )
    update = {"recipe": small, "layout": layout, "device": "cpu", "model_path": MODEL, "train": channels, "eval": held}
    return job.model_copy(update={**update, "predicted_peak_bytes": None, "max_seconds": None})


def _early(rows: list[Kept], least: int) -> list[Kept]:
    """The rows with something to learn before they are cut for the small model; all of them where those are fewer than ``least``."""
    early = [kept for kept in rows if kept.early]
    return early if len(early) >= least else rows


def _write_rows(part: str, rows: list[Kept], paths: Paths) -> tuple[Channel, ...]:
    """One .jsonl file per row format, below the input data."""
    channels = []
    for row_format in dict.fromkeys(kept.row_format for kept in rows):
        path = f"{part}/rehearsal-{row_format}.jsonl"
        place = paths.inputs / path
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(kept.row, ensure_ascii=False) for kept in rows if kept.row_format == row_format]
        place.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        channels.append(Channel(path=path, source=DataSource(path=f"./{path}", format=row_format)))  # type: ignore[arg-type]
    return tuple(channels)
