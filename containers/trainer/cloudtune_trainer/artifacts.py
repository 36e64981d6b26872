"""What the run leaves behind in ``model/``: adapter or full model, merged model, evaluation set, manifest last. Trains nothing."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cloudtune.errors import JobFailed
from cloudtune.manifest import METRICS_NAME, Artifact, Manifest
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import FullMethod, LoraMethod
from cloudtune_trainer.checkpoints import sync
from cloudtune_trainer.loss import decoder_of
from cloudtune_trainer.model import result_dtype
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.tokens import Sequence

EVAL_SET_NAME = "eval_set.jsonl"
INITIAL = "initial-adapter"
EVAL_SET_MOST_BYTES = 20 * 2**20
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "accelerate", "datasets")


def empty(folder: Path) -> None:
    """Remove what an earlier try left, the manifest first: without it nothing else counts."""
    for name in ("manifest.json", "job.json", METRICS_NAME, EVAL_SET_NAME):
        (folder / name).unlink(missing_ok=True)
    for name in ("adapter", "full", "merged"):
        shutil.rmtree(folder / name, ignore_errors=True)


def result_folder(job: JobFile, paths: Paths) -> Path:
    """Where the trained weights go: ``full/`` or ``adapter/``."""
    return paths.model / ("full" if isinstance(job.recipe.method, FullMethod) else "adapter")


def moves_base(job: JobFile) -> bool:
    """Whether the adapters began by taking something out of the base's weights (PiSSA, OLoRA)."""
    method = job.recipe.method
    return isinstance(method, LoraMethod) and method.init in ("pissa", "olora")


def keep_initial(paths: Paths, model: Any) -> None:
    """Save the adapters as they begin. Saved as they end, they would fit only a base that was changed in the same way,
    and PiSSA's decomposition is random; their difference to the beginning fits the base as it is published.
    """
    settings = model.peft_config["default"]
    kind, settings.init_lora_weights = settings.init_lora_weights, True
    model.save_pretrained(paths.checkpoints / INITIAL, save_embedding_layers=False)
    settings.init_lora_weights = kind


def save_model(job: JobFile, paths: Paths, model: Any, tokenizer: Any, state: Any = None) -> None:
    """Save the trained weights with tokenizer and stop tokens, so that the folder loads by itself.

    ``state``: name → whole weight, for a sharded model, which has no whole ones of its own.
    """
    home = result_folder(job, paths)
    home.mkdir(parents=True, exist_ok=True)
    given = {} if state is None else {"state_dict": state}
    if isinstance(job.recipe.method, FullMethod):
        _save_full(job, home, model, given)
    else:
        # False: peft would ask the hub whether the vocabulary grew; this trainer never grows it.
        start = {"path_initial_model_for_weight_conversion": str(paths.checkpoints / INITIAL)} if moves_base(job) else {}
        model.save_pretrained(home, save_embedding_layers=False, **start, **given)
        _sort_targets(home / "adapter_config.json")
        (home / "README.md").write_text(_card(job), encoding="utf-8")
    tokenizer.save_pretrained(home)
    generation = stopping(job, model, tokenizer)
    if generation is not None:
        generation.save_pretrained(home)


def _save_full(job: JobFile, home: Path, model: Any, given: dict[str, Any]) -> None:
    """Write the whole model in the type that it was computed in: the fp32 masters are of no use to whoever only runs it."""
    dtype = result_dtype(job)
    if given:
        model.save_pretrained(home, **given)
        config = json.loads((home / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")
        (home / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        model.to(dtype).save_pretrained(home)


def stopping(job: JobFile, model: Any, tokenizer: Any) -> Any:
    """The model's generation config, ending on the tokens that the training ended answers with. None for encoders."""
    generation = getattr(decoder_of(model), "generation_config", None)
    if generation is None or job.recipe.task != "causal_lm":
        return None
    ends = {tokenizer.eos_token_id, *_as_list(generation.eos_token_id)}
    if token := job.recipe.data.special_tokens.get("end_of_turn"):
        ends.add(tokenizer.convert_tokens_to_ids(token))
    generation.eos_token_id = sorted(end for end in ends if end is not None)
    return generation


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _sort_targets(path: Path) -> None:
    """peft keeps module names in a set and writes them in any order; equal runs must leave equal bytes."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(job: JobFile) -> str:
    recipe = job.recipe
    return (
        f"---\nbase_model: {recipe.model.base}\nlibrary_name: peft\n---\n\n"
        f"# {recipe.name}\n\nAdapter ({recipe.method.type}) for {recipe.model.base}, trained with cloudtune {job.cloudtune_version}.\n"
        "What it was trained on and how it did is in `job.json` and `manifest.json` of the run.\n"
    )


def save_eval_set(path: Path, sequences: Iterable[Sequence]) -> None:
    """Write the held-out sequences as token ids and labels, one JSON object a line, unless they are larger than 20 MiB."""
    lines = [json.dumps({"input_ids": item.ids.tolist(), "labels": item.labels.tolist(), "row": item.row}) for item in sequences]
    text = "".join(f"{line}\n" for line in lines)
    if lines and len(text) <= EVAL_SET_MOST_BYTES:
        path.write_text(text, encoding="utf-8")


def read_eval_set(path: Path) -> tuple[Sequence, ...]:
    """The inverse of ``save_eval_set``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(Sequence(np.asarray(row["input_ids"], np.int32), np.asarray(row["labels"], np.int32), row["row"]) for row in rows)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put ``manifest`` in place as the last file: temporary name, on the disk, renamed, folder on the disk."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sync(unfinished)
    unfinished.rename(path)
    sync(path.parent)


def list_artifacts(folder: Path) -> tuple[Artifact, ...]:
    """Every file below ``folder`` with size and sha256, sorted by path; all of them are on the disk afterwards."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".manifest")):
        sync(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(Artifact(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=digest))
    return tuple(found)


def upload(job: JobFile, paths: Paths) -> str:
    """Put the result into the hub repository that the recipe names, with the token in HF_TOKEN; its URL."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name = str(job.recipe.output.push_to_hub)
    home = paths.model / "merged" if (paths.model / "merged").is_dir() else result_folder(job, paths)
    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=home)
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise JobFailed(
            f"the result could not be uploaded to {name}: {first}", hint="check the secret HF_TOKEN; a restart goes on from here"
        ) from error
    return f"https://huggingface.co/{name}"


def copy_records(paths: Paths) -> None:
    """Put copies of ``job.json`` and ``metrics.jsonl`` beside the artifacts."""
    paths.model.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(paths.job_file, paths.model / "job.json")
    if paths.metrics.exists():
        shutil.copyfile(paths.metrics, paths.model / METRICS_NAME)


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
