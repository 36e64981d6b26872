"""What a valid recipe may ask for and this release's trainer, images or places do not do, said before anybody pays. Pure."""

from __future__ import annotations

from cloudtune.errors import RejectedError, UsageError
from cloudtune.planning.buckets import OWN, is_brought, is_copied, sources
from cloudtune.recipe.locations import is_local_file, is_local_model, is_remote
from cloudtune.recipe.spec import Recipe

# containers/requirements/cuda.txt; tests/unit/test_promises.py compares
TRACKERS_IN_IMAGES = frozenset({"tensorboard"})
ATTENTION_IN_IMAGES = frozenset({"auto", "sdpa", "eager"})


def refuse_undone(recipe: Recipe) -> None:
    """Raise UsageError for a kind of training that no machine of ours can do."""
    if recipe.task == "preference":
        raise UsageError(
            "training on preference pairs (task: preference) is not in this release",
            where="task",
            hint="write task: causal_lm and give the chosen answers as completion or chat rows",
            code="not-trained",
        )


def missing_in_images(recipe: Recipe, provider: str) -> str | None:
    """Why our images cannot run the recipe, in one sentence. This machine may have more installed than they."""
    if provider == "local":
        return None
    if recipe.model.attention not in ATTENTION_IN_IMAGES:
        return f"attention {recipe.model.attention} is not in this release's images; sdpa is"
    if missing := sorted(set(recipe.tracking.report_to) - TRACKERS_IN_IMAGES):
        return f"tracking.report_to {missing[0]} is not in this release's images; tensorboard is"
    return None


_OWNERS = {"s3://": "Amazon's", "gs://": "Google's"}


def out_of_reach(recipe: Recipe, provider: str) -> str | None:
    """Why a job of ``provider`` cannot read the recipe's data or base model, in one sentence with the way out."""
    away, own = _away(recipe, provider), OWN.get(provider)
    if away is None:
        return None
    if own is None:
        return f"{away} is in a bucket, which a job on this machine does not read; download it"
    return f"{away} is {_OWNERS[away[:5]]}, which a job on {provider} does not read; copy it to {own} or to this machine"


def refuse_out_of_reach(recipe: Recipe, provider: str) -> None:
    """Raises RejectedError (``data-elsewhere``), with the command that helps, for what a job of ``provider`` cannot read."""
    reason = out_of_reach(recipe, provider)
    if reason is not None:
        hint = f"{_copy_command(recipe, provider)}, and name that in the recipe; or name another provider"
        raise RejectedError(reason, code="data-elsewhere", hint=hint)


def _copy_command(recipe: Recipe, provider: str) -> str:
    """The command that brings what is out of reach to where a job of ``provider`` reads it."""
    away = _away(recipe, provider) or ""
    whole = " --recursive" if away == recipe.model.base else ""
    own = OWN.get(provider)
    if own is None and away.startswith("s3://"):
        return f"aws s3 cp{whole} {away} ."
    # Google's program also reads and writes S3.
    return f"gcloud storage cp{whole} {away} {f'{own}YOUR-BUCKET/' if own else '.'}"


def _away(recipe: Recipe, provider: str) -> str | None:
    """The first address that a job of ``provider`` does not read and a launch does not copy."""
    if provider not in (*OWN, "local"):
        return None
    paths = (recipe.model.base, *(source.path for source in sources(recipe) if not is_copied(source.path, provider)))
    return next((path for path in paths if is_remote(path) and not is_brought(path, provider)), None)


def without_effect(recipe: Recipe) -> tuple[str, ...]:
    """Keys that were written and change nothing beside the others, one sentence each."""
    training, said = recipe.training, []
    written = training.model_fields_set
    if "adam_betas" in written and training.optimizer in ("sgd", "adafactor"):
        said.append(f"adam_betas changes nothing with optimizer {training.optimizer}")
    if training.lr_scheduler == "constant":
        idle = [key for key in ("warmup_ratio", "warmup_steps") if key in written and getattr(training, key)]
        said += [f"{key} changes nothing with lr_scheduler constant; constant_with_warmup warms up" for key in idle]
    if "revision" in recipe.model.model_fields_set and is_local_model(recipe.model.base):
        said.append("model.revision changes nothing with a folder")
    rows = sources(recipe)
    if any("split" in source.model_fields_set and is_local_file(source.path) for source in rows):
        said.append("split changes nothing with a file; it names a part of a hub data set")
    if recipe.data.loss_on == "completion" and "loss_on" in recipe.data.model_fields_set and all(item.format == "text" for item in rows):
        said.append("loss_on: completion changes nothing with text rows, which are learned whole")
    return tuple(said)
