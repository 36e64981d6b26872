"""The verb ``plan``: gathers what the planner needs (model shape, data size, offers) and asks it. Spends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cloudtune.errors import LedgerError
from cloudtune.memory.measured import NOTHING, Measurements, MemoryRun, class_of, measurements
from cloudtune.planning.calibrate import Calibration, Measured, calibrate
from cloudtune.planning.decide import Question, decide
from cloudtune.sources.stats import find_tokenizer, measure
from cloudtune.verbs.drift import cloudtune_version, fingerprints
from cloudtune.verbs.market import asked_provider, offers_for, shape_of
from cloudtune.verbs.targets import check_targets

if TYPE_CHECKING:
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.session import Session

LEARN_FROM = 20  # newest ended jobs whose measured speed corrects the time model


def make_plan(loaded: LoadedRecipe, *, provider: str | None = None, session: Session) -> Plan:
    """The plan for a recipe; ``provider`` (aws, gcp, local, or auto: whichever is best) wins over the recipe's.

    Raises NothingFits when no machine will do, SourceError when model or data are out of reach, RecipeError when the
    model has not the modules that the recipe adapts.
    """
    plan = decide(gather(loaded, provider=provider, session=session))
    return plan.model_copy(update={"inputs": fingerprints(plan.recipe, loaded.dir)})


def gather(loaded: LoadedRecipe, *, provider: str | None, session: Session) -> Question:
    """Everything the planner's answer depends on, as one value."""
    recipe = loaded.recipe
    asked = asked_provider(recipe, provider)
    shape = shape_of(recipe, loaded.dir, session)
    check_targets(loaded, shape)
    calibration, measured = learned(session)
    return Question(
        recipe=recipe,
        recipe_dir=str(loaded.dir.resolve()),
        shape=shape,
        stats=measure(recipe, loaded.dir, tokenizer=find_tokenizer(recipe.model.base, loaded.dir)),
        offers=offers_for(recipe, provider, session),
        provider=asked,
        cloudtune_version=cloudtune_version(),
        today=session.clock.now().date(),
        calibration=calibration,
        measured=measured,
    )


def learned(session: Session) -> tuple[Calibration, Measurements]:
    """What the newest finished jobs of the ledger say about speed and memory; nothing without a ledger that can be read."""
    if not session.settings.home.exists():
        return Calibration(), NOTHING
    from cloudtune.ledger.ledger import FILE_NAME

    if not (session.settings.home / FILE_NAME).exists():
        return Calibration(), NOTHING
    try:
        ended = session.ledger.views(is_open=False, limit=LEARN_FROM)
        known = [found for view in ended if (found := _finished(view.id, session)) is not None]
    except LedgerError:
        return Calibration(), NOTHING
    speeds = [speed for plan, body in known if (speed := _speed(plan, body)) is not None]
    return calibrate(speeds), measurements(run for plan, body in known if (run := _memory(plan, body)) is not None)


def _finished(launch_id: LaunchId, session: Session) -> tuple[Plan, Mapping[str, Any]] | None:
    """The plan of a job and what ``collect`` wrote down as measured; None where one of them is unknown."""
    from cloudtune.verbs.plans import load_plan

    body = next((event.body for event in session.ledger.events(launch_id) if event.kind == "measured"), None)
    plan = load_plan(launch_id, session) if body else None
    return (plan, body) if plan is not None and body is not None else None


def _speed(plan: Plan, body: Mapping[str, Any]) -> Measured | None:
    """Steps per second, and what the plan said."""
    if not (body.get("train_seconds") and body.get("steps") and plan.training_seconds):
        return None
    return Measured(plan.chosen.gpu, plan.recipe.method.type, body["steps"] / body["train_seconds"], plan.steps / plan.training_seconds)


def _memory(plan: Plan, body: Mapping[str, Any]) -> MemoryRun | None:
    """The measured peak beside the predicted one in the same metric: device or reserved on CUDA, the process on the CPU."""
    peak = body.get("peak_memory") or {}
    cuda = peak.get("device") == "cuda"
    if cuda != (plan.chosen.gpu != "cpu"):
        return None
    pairs = (
        [(peak.get("device_bytes"), plan.memory.peak_bytes), (peak.get("reserved_bytes"), plan.memory.reserved_bytes)]
        if cuda
        else [(peak.get("host_rss_bytes"), plan.memory.peak_bytes)]
    )
    found = next(((measured, predicted) for measured, predicted in pairs if measured), None)
    if found is None:
        return None
    data = plan.recipe.data
    fair = data.packing or plan.data.longest_tokens >= data.max_length
    return MemoryRun(class_of(plan.recipe, plan.layout, plan.chosen.gpu), found[1], found[0], fair)
