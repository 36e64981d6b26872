"""What a valid recipe may ask for and this release's trainer or images do not do, said before anybody pays. Pure."""

from __future__ import annotations

from cloudtune.errors import UsageError
from cloudtune.recipe.locations import is_local_file, is_local_model
from cloudtune.recipe.spec import DataSource, Recipe

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
    sources = (*recipe.data.train, *(recipe.data.eval if isinstance(recipe.data.eval, tuple) else ()))
    if any(isinstance(source, DataSource) and "split" in source.model_fields_set and is_local_file(source.path) for source in sources):
        said.append("split changes nothing with a file; it names a part of a hub data set")
    if recipe.data.loss_on == "completion" and "loss_on" in recipe.data.model_fields_set and all(item.format == "text" for item in sources):
        said.append("loss_on: completion changes nothing with text rows, which are learned whole")
    return tuple(said)
