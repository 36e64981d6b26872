"""The verb behind ``render --target colab``: a recipe planned for Colab's machines and written as a notebook. Sends nothing.

Colab gives no choice of regions, purchases or prices, so these parts of the recipe do not count here; max_hours does. The
plan takes the smallest of Colab's GPUs that is enough, or the one that ``compute.instance`` names (T4, L4, A100, H100, G4, cpu).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloudtune.errors import NothingFits, StagingError, UsageError
from cloudtune.offers.colab import CPU, NAMES, colab_offers
from cloudtune.planning.calibrate import Calibration
from cloudtune.planning.decide import NoOfferFits, decide
from cloudtune.rendering.jobfile import LocalInput, local_inputs
from cloudtune.rendering.notebook import Carried, in_buckets, notebook
from cloudtune.verbs.drift import fingerprints
from cloudtune.verbs.plan import gather
from cloudtune.verbs.render import data_digests, render

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session

CARRIED_BYTES = 2 * 2**20
"""Data up to this size in all goes into the notebook; a larger one would make it slow to open."""


@dataclass(frozen=True, slots=True)
class Notebook:
    """``content``: the file. ``carried`` and ``bring``: the user's files that are in it, and those that have to be brought.

    ``far``: addresses of what is in a bucket. The notebook fetches it from Cloud Storage by itself; from S3 it has to be brought too.
    """

    content: bytes
    fits: tuple[str, ...]
    carried: tuple[LocalInput, ...]
    bring: tuple[LocalInput, ...]
    far: tuple[str, ...] = ()


def colab_plan(loaded: LoadedRecipe, *, session: Session) -> Plan:
    """The recipe on the first of Colab's machines that will do. Raises NothingFits with the reason for each."""
    question = gather(loaded, provider="local", session=session)
    asked = question.recipe.compute.instance
    wanted = (asked,) if asked in NAMES else _in_order(question.recipe)
    offers, reasons = colab_offers(), []
    for name in wanted:
        try:
            plan = decide(replace(question, recipe=_without_cloud(question.recipe), offers=(offers[name],), calibration=Calibration()))
        except NoOfferFits as error:
            reasons.append(f"{name}: {error.rejected[0].reason}")
        else:
            return plan.model_copy(update={"inputs": fingerprints(plan.recipe, loaded.dir)})
    raise NothingFits(
        f"none of Colab's machines will do: {'; '.join(reasons)}", hint="cloudtune plan finds larger machines on SageMaker and Vertex AI"
    )


def _in_order(recipe: Recipe) -> tuple[str, ...]:
    """A recipe for this machine whose model is built in needs no GPU; any other wants one."""
    gpus = tuple(name for name in NAMES if name != CPU)
    return (CPU,) if recipe.model.base.startswith("builtin:") else gpus


def _without_cloud(recipe: Recipe) -> Recipe:
    compute = {"provider": "local", "instance": "auto", "nodes": "auto", "purchase": "any"}
    return recipe.model_copy(
        update={
            "compute": recipe.compute.model_copy(update=compute),
            "budget": recipe.budget.model_copy(update={"max_usd": None}),
        }
    )


def make_notebook(plan: Plan) -> Notebook:
    """The notebook of a plan; equal plans and equal data give equal bytes. Raises UsageError for a plan with several GPUs."""
    if plan.layout.nodes > 1 or plan.layout.gpus > 1:
        raise UsageError(
            f"this plan is for {plan.layout.nodes * plan.layout.gpus} GPUs, and a notebook has one",
            hint="render from the recipe, which is then planned for Colab",
        )
    inputs = local_inputs(plan)
    carried = _carried(inputs)
    fits = _fits(plan)
    content = notebook(
        plan,
        render(plan),
        inputs,
        data_digests(plan),
        Carried({item.channel: _read(item) for item in carried}, fits),
    )
    return Notebook(content, fits, carried, tuple(item for item in inputs if item not in carried), tuple(in_buckets(plan).values()))


def _carried(inputs: tuple[LocalInput, ...]) -> tuple[LocalInput, ...]:
    """The files, smallest first, as long as all of them together are small; a folder (a local base model) never is."""
    left = CARRIED_BYTES
    found = []
    for size, item in sorted(((item.source.stat().st_size, item) for item in inputs if item.source.is_file()), key=lambda pair: pair[0]):
        if size <= left:
            found.append(item)
            left -= size
    return tuple(item for item in inputs if item in found)


def _read(item: LocalInput) -> bytes:
    try:
        return item.source.read_bytes()
    except OSError as error:
        raise StagingError(f"the data file cannot be read: {error.strerror}", where=str(item.source)) from error


def _fits(plan: Plan) -> tuple[str, ...]:
    """Colab's GPUs that hold the upper end of the estimate and know the number format, smallest first."""
    if not plan.layout.gpus:
        return ()
    bf16 = plan.resolved.model.dtype == "bfloat16"
    return tuple(
        name
        for name, offer in colab_offers().items()
        if offer.gpu_count
        and (offer.instance == plan.chosen.instance or (offer.gpu.memory_bytes >= plan.memory.high_bytes and (offer.gpu.bf16 or not bf16)))
    )
