"""``job.json`` → ``JobFile``: what we were told to do, refused in one sentence when it makes no sense. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from cloudtune.errors import JobFailed
from cloudtune.manifest import Manifest
from cloudtune.recipe.resolved import CONTRACT_VERSION, JobFile
from cloudtune.recipe.sharded import why_not_sharded


def read_orders(path: Path) -> JobFile:
    """The job at ``path``. Raises JobFailed when it is missing, not JSON, of another contract, or not doable here."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JobFailed(
            f"there is no readable job.json: {error.strerror}", where=str(path), hint="CLOUDTUNE_ROOT names the folder"
        ) from error
    _check_contract(content, path)
    try:
        job = JobFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(piece) for piece in first["loc"])
        raise JobFailed(f"job.json is not valid: {place}: {first['msg']}", where=str(path)) from error
    _check_doable(job)
    return job


def _check_contract(content: bytes, path: Path) -> None:
    try:
        version = json.loads(content).get("contract")
    except (ValueError, AttributeError, RecursionError) as error:
        raise JobFailed("job.json is not a JSON object", where=str(path)) from error
    if version != CONTRACT_VERSION:
        hint = "the image and the launcher are of different releases"
        raise JobFailed(f"job.json speaks contract {version}, this trainer speaks {CONTRACT_VERSION}", where=str(path), hint=hint)


def _check_doable(job: JobFile) -> None:
    recipe = job.recipe
    open_keys = [key for key, value in recipe.training.model_dump().items() if value == "auto"]
    if open_keys:
        raise JobFailed(f"job.json leaves training.{open_keys[0]} undecided", hint="the planner decides every auto before a job is made")
    _check_sharding(job)
    if recipe.task == "preference":
        raise JobFailed("this trainer does not train on preference pairs yet", hint="use task: causal_lm")
    if recipe.task == "masked_lm" and recipe.data.packing:
        raise JobFailed("masked_lm rows cannot be packed: every token would see its neighbours", hint="set data.packing: false")
    if recipe.task == "masked_lm" and any(channel.source.format != "text" for channel in (*job.train, *job.eval)):
        raise JobFailed("masked_lm learns from text rows only", hint="set format: text for every data source")


def _check_sharding(job: JobFile) -> None:
    layout = job.layout
    if layout.cpu_offload and layout.sharding != "fsdp":
        raise JobFailed("only sharded weights can lie in host memory", hint="the planner writes such layouts with sharding: fsdp")
    if layout.sharding != "fsdp":
        return
    if layout.data_parallel == 1:
        raise JobFailed("a model cannot be sharded over one worker", hint="the planner writes sharding: none for one GPU")
    if (reason := why_not_sharded(job.recipe)) is not None:
        raise JobFailed(reason, hint="choose a machine whose GPU holds the model, or change the recipe")


def digest(job: JobFile) -> str:
    """Digest of everything that decides the weights: a checkpoint of another digest is another job's."""
    decisive = {
        "recipe": job.recipe.model_dump(mode="json", include={"model", "task", "method", "data", "training"}),
        "device": job.device,
        "data": [[channel.path, channel.sha256] for channel in (*job.train, *job.eval)],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def is_finished(manifest: Path) -> bool:
    """Whether a manifest is there that says that nothing is left to do."""
    try:
        outcome = Manifest.model_validate_json(manifest.read_bytes()).outcome
    except (OSError, ValidationError):
        return False
    return outcome in ("complete", "stopped")
