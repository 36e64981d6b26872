"""``builtin:quickstart``: a small Llama, pre-trained on the Python documentation that every interpreter carries.

Built once per machine (half a minute to a minute on one core), then kept in the cache under a key of everything that decides its
bytes. Random weights would prove nothing: adapters on them hardly learn. Downloads nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudtune.recipe.quickstart import QUICKSTART_CONFIG, QUICKSTART_RECIPE
from cloudtune_trainer.report import Report
from cloudtune_trainer.surroundings import StopSign

END, PAD = "<|end|>", "<|pad|>"


def ensure_quickstart(cache: Path, report: Report, stop: StopSign, recipe: Mapping[str, Any] = QUICKSTART_RECIPE) -> Path:
    """Folder of the model, built if it is not in ``cache``. Safe when several jobs start at once; raises Interrupted."""
    models = cache / "models"
    models.mkdir(parents=True, exist_ok=True)
    home = models / f"quickstart-{key(recipe)}"
    if home.is_dir():
        return home
    with _only_builder(models / f"{home.name}.lock", report):
        if not home.is_dir():
            for leftover in models.glob(f".{home.name}-*"):  # of a builder that was killed; we hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished = models / f".{home.name}-{os.getpid()}"
            build(unfinished, report, stop, recipe)
            unfinished.rename(home)
    return home


def key(recipe: Mapping[str, Any] = QUICKSTART_RECIPE) -> str:
    """Twelve characters that change with anything that changes the model's bytes: sizes, texts, versions, processor kind."""
    from importlib.metadata import version

    parts = {
        "config": QUICKSTART_CONFIG,
        "recipe": dict(recipe),
        "texts": hashlib.sha256("\0".join(_texts()).encode()).hexdigest(),
        "versions": [version(name) for name in ("torch", "transformers", "tokenizers")],
        "machine": platform.machine(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def _only_builder(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.row("prepare", message="another job is building the quickstart model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _texts() -> list[str]:
    """The documentation topics of this interpreter (PSF licence), in the order of their names."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def build(folder: Path, report: Report, stop: StopSign, recipe: Mapping[str, Any] = QUICKSTART_RECIPE) -> None:
    """Train tokenizer and model and save both into ``folder``."""
    import torch

    report.row("prepare", message="building builtin:quickstart from this interpreter's documentation, once per machine")
    texts = _texts()
    tokenizer = _tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["seed"])
        model = _new_model(tokenizer)
        _pretrain(model, _token_stream(tokenizer, texts), recipe, report, stop)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=QUICKSTART_CONFIG["vocab_size"],
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be written, also one with unseen characters
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        model_max_length=QUICKSTART_CONFIG["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def _token_stream(tokenizer: Any, texts: list[str]) -> Any:
    import torch

    stream = []
    for text in texts:
        stream += [*tokenizer(text, verbose=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(stream)


def _new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    own = {name: value for name, value in QUICKSTART_CONFIG.items() if name not in {"model_type", "architectures"}}
    config = LlamaConfig(**own, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return LlamaForCausalLM(config)


def _pretrain(model: Any, stream: Any, recipe: Mapping[str, Any], report: Report, stop: StopSign) -> None:
    """Next-token training on random windows. Muon for the matrices: it learns in 300 steps what AdamW alone does not in 600."""
    import torch

    from cloudtune_trainer.muon import Muon

    steps, rows, width = recipe["steps"], recipe["rows_per_step"], recipe["window"]
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        Muon(matrices, lr=recipe["matrix_rate"], momentum=0.95, precision=getattr(torch, recipe["matrix_precision"])),
        torch.optim.AdamW(others, lr=recipe["other_rate"], betas=(0.9, 0.95), weight_decay=0.0, foreach=False),
    )
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    for step in range(steps):
        stop.check()
        factor = min(1.0, (step + 1) / recipe["warmup"]) * max(0.02, 1 - step / steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
        starts = torch.randint(0, len(stream) - width - 1, (rows,)).tolist()
        windows = torch.stack([stream[start : start + width] for start in starts])
        loss = model(input_ids=windows, labels=windows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % recipe["report_every"] == 0 or step + 1 == steps:
            report.row("prepare", step=step + 1, total_steps=steps, loss=round(float(loss.detach()), 4))
    model.eval()
