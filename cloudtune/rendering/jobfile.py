"""Plan → ``job.json``: what the trainer is told, free of anything that is true of one machine only. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cloudtune.planning.buckets import is_brought, is_copied
from cloudtune.planning.plan import Plan
from cloudtune.recipe.locations import is_local_file, is_local_model
from cloudtune.recipe.resolved import Channel, JobFile
from cloudtune.recipe.rules import TEMPLATE_ENDINGS
from cloudtune.recipe.spec import DataSource, Recipe

MODEL_CHANNEL = "model"
TEMPLATE_NAME = "chat_template.jinja"
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class LocalInput:
    """A file or folder of the user's machine and where it lies inside the job, relative to the input data folder."""

    channel: str
    source: Path


@dataclass(frozen=True, slots=True)
class BucketInput:
    """Data or a base model in a bucket of the user's that the provider brings: ``channel`` as of ``LocalInput``, and its address.

    The first part of ``channel`` is the provider's channel; a file keeps its name in the bucket, since the provider gives it that.
    """

    channel: str
    uri: str

    @property
    def name(self) -> str:
        """The provider's channel."""
        return self.channel.partition("/")[0]

    @property
    def is_model(self) -> bool:
        """Whether it is the base model's folder; everything else is one file."""
        return self.channel == MODEL_CHANNEL


def _channel_path(kind: str, index: int, source: DataSource, provider: str) -> str:
    if is_brought(source.path, provider) or is_copied(source.path, provider):
        return f"{kind}-{index}/{source.path.rpartition('/')[2]}"
    if not is_local_file(source.path):
        return source.path
    return f"{kind}/{index}-{_PLAIN_NAME.sub('-', PurePosixPath(source.path).name)}"


def _sources(recipe: Recipe) -> tuple[tuple[str, int, DataSource], ...]:
    """(train or eval, number, source) of every source, in the order of the recipe."""
    parts = (("train", recipe.data.train), ("eval", _eval_sources(recipe)))
    return tuple((kind, index, source) for kind, sources in parts for index, source in enumerate(sources))


def _eval_sources(recipe: Recipe) -> tuple[DataSource, ...]:
    return recipe.data.eval if isinstance(recipe.data.eval, tuple) else ()


def local_inputs(plan: Plan) -> tuple[LocalInput, ...]:
    """Every local file and folder that the job needs, in the order of the recipe."""
    base = Path(plan.recipe_dir)
    found = [
        LocalInput(_channel_path(kind, index, source, plan.chosen.provider), base / Path(source.path).expanduser())
        for kind, index, source in _sources(plan.recipe)
        if is_local_file(source.path)
    ]
    if is_local_model(plan.recipe.model.base):
        found.append(LocalInput(MODEL_CHANNEL, base / Path(plan.recipe.model.base).expanduser()))
    return tuple(found)


def bucket_inputs(plan: Plan) -> tuple[BucketInput, ...]:
    """Everything of the user's in a bucket that the plan's provider brings, or its launcher copies, in the order of the recipe."""
    provider, base = plan.chosen.provider, plan.recipe.model.base
    found = [
        BucketInput(_channel_path(kind, index, source, provider), source.path)
        for kind, index, source in _sources(plan.recipe)
        if is_brought(source.path, provider) or is_copied(source.path, provider)
    ]
    return (*found, BucketInput(MODEL_CHANNEL, base)) if is_brought(base, provider) else tuple(found)


def template_file(plan: Plan) -> Path | None:
    """The Jinja file that the recipe names as chat template, if it names one."""
    name = plan.recipe.data.chat_template
    return Path(plan.recipe_dir) / Path(name).expanduser() if name.endswith(TEMPLATE_ENDINGS) else None


def job_file(plan: Plan, digests: Mapping[str, str]) -> JobFile:
    """The trainer's orders. ``digests``: channel path → sha256 of the local data files."""
    recipe, provider = plan.resolved, plan.chosen.provider
    train = _channels("train", recipe.data.train, digests, provider)
    evaluation = _channels("eval", _eval_sources(recipe), digests, provider)
    model_here = is_local_model(recipe.model.base) or is_brought(recipe.model.base, provider)
    return JobFile(
        cloudtune_version=plan.cloudtune_version,
        recipe=_without_machine(recipe, train, evaluation, model_here=model_here),
        layout=plan.layout,
        device="cuda" if plan.layout.gpus else "cpu",
        model_path=MODEL_CHANNEL if model_here else None,
        train=train,
        eval=evaluation,
        predicted_peak_bytes=plan.memory.peak_bytes,
        max_seconds=plan.max_seconds,
    )


def _channels(kind: str, sources: tuple[DataSource, ...], digests: Mapping[str, str], provider: str) -> tuple[Channel, ...]:
    paths = [_channel_path(kind, index, source, provider) for index, source in enumerate(sources)]
    return tuple(
        Channel(path=path, source=source.model_copy(update={"path": path}), sha256=digests.get(path))
        for path, source in zip(paths, sources, strict=True)
    )


def _without_machine(recipe: Recipe, train: tuple[Channel, ...], evaluation: tuple[Channel, ...], *, model_here: bool) -> Recipe:
    """The recipe with in-job paths, so that two users' equal jobs have equal bytes."""
    data = {"train": tuple(channel.source for channel in train)}
    if evaluation:
        data["eval"] = tuple(channel.source for channel in evaluation)
    template = TEMPLATE_NAME if recipe.data.chat_template.endswith(TEMPLATE_ENDINGS) else recipe.data.chat_template
    model = {"config": None, **({"base": MODEL_CHANNEL} if model_here else {})}
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={**data, "chat_template": template}),
            "model": recipe.model.model_copy(update=model),
            "output": recipe.output.model_copy(update={"dir": "./runs"}),
        }
    )
