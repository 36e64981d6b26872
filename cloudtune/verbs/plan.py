"""The verb ``plan``: gathers what the planner needs (model shape, data size, offers) and asks it. Spends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.models.registry import find_shape
from cloudtune.offers.catalog import offers_of
from cloudtune.offers.lookup import local_offer
from cloudtune.planning.decide import Question, decide, relevant
from cloudtune.planning.drift import changes
from cloudtune.providers.local.machine import Machine, this_machine
from cloudtune.recipe.locations import is_local_file
from cloudtune.sources.files import locate
from cloudtune.sources.stats import find_tokenizer, fingerprint, measure

if TYPE_CHECKING:
    from cloudtune.models.shape import ModelShape
    from cloudtune.offers.offer import Offer
    from cloudtune.planning.plan import Plan
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session

CLOUDS = ("aws", "gcp")


def cloudtune_version() -> str:
    """This code's own version: the same in a checkout and in an installed wheel, so that equal sources render equal bytes."""
    from cloudtune import __version__

    return __version__


def make_plan(loaded: LoadedRecipe, *, provider: str | None = None, session: Session) -> Plan:
    """The plan for a recipe; ``provider`` (aws, gcp, local) wins over the recipe's.

    Raises NothingFits when no machine will do, SourceError when model or data are out of reach.
    """
    plan = decide(gather(loaded, provider=provider, session=session))
    return plan.model_copy(update={"inputs": fingerprints(plan.recipe, loaded.dir)})


def changed_since(plan: Plan, *, session: Session) -> tuple[str, ...]:
    """What has changed since a saved plan was made, one sentence each: prices, offers, data, cloudtune. Empty: nothing."""
    offers = known_offers(plan.chosen.provider, session)
    return changes(plan, offers, fingerprints(plan.recipe, Path(plan.recipe_dir)), cloudtune_version())


def fingerprints(recipe: Recipe, base_dir: Path) -> dict[str, str]:
    """Size and digest of the first and last MiB of each local data file; files that cannot be read are left out."""
    evaluated = recipe.data.eval if isinstance(recipe.data.eval, tuple) else ()
    paths = [source.path for source in (*recipe.data.train, *evaluated) if is_local_file(source.path)]
    return {path: print_ for path in paths if (print_ := fingerprint(locate(path, base_dir))) is not None}


def gather(loaded: LoadedRecipe, *, provider: str | None, session: Session) -> Question:
    """Everything the planner's answer depends on, as one value."""
    recipe = loaded.recipe
    asked = provider or (None if recipe.compute.provider == "auto" else recipe.compute.provider)
    return Question(
        recipe=recipe,
        recipe_dir=str(loaded.dir.resolve()),
        shape=shape_of(recipe, loaded.dir, session),
        stats=measure(recipe, loaded.dir, tokenizer=find_tokenizer(recipe.model.base, loaded.dir)),
        offers=relevant(known_offers(asked, session), asked, recipe.compute.regions),
        provider=asked,
        cloudtune_version=cloudtune_version(),
        today=session.clock.now().date(),
    )


def shape_of(recipe: Recipe, base_dir: Path, session: Session) -> ModelShape:
    """The model's shape: the recipe's config.json, the offline registry, a local folder, then the hub."""
    from cloudtune.sources.hub import fetch_config

    def fetch(base: str, revision: str) -> dict[str, object]:
        return fetch_config(base, revision, cache_dir=session.settings.cache)

    config = base_dir / recipe.model.config if recipe.model.config else None
    return find_shape(recipe.model.base, config=config, base_dir=base_dir, revision=recipe.model.revision, fetch_config=fetch)


def known_offers(provider: str | None, session: Session) -> tuple[Offer, ...]:
    """This machine, and the shipped price tables with the user's catalog over them; or only those of ``provider``."""
    local = (_local(this_machine()),) if provider in (None, "local") else ()
    clouds = [name for name in CLOUDS if provider in (None, name)]
    return (*local, *(offer for name in clouds for offer in offers_of(name, session.settings.home)))


def _local(machine: Machine) -> Offer:
    gpu = machine.gpus[0] if machine.gpus else None
    return local_offer(
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        gpu_name=gpu.name if gpu else None,
        gpu_memory_bytes=gpu.memory_bytes if gpu else 0,
        gpu_count=len(machine.gpus),
        compute_capability=gpu.compute_capability if gpu else 0.0,
    )
