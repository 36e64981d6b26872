"""What a question about a model needs from outside: the model's shape, and the machines that are offered. Spends nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudtune.errors import UsageError
from cloudtune.models.registry import find_config, find_shape
from cloudtune.offers.catalog import offers_of
from cloudtune.offers.lookup import local_offer, relevant
from cloudtune.providers.gcp.machines import availability
from cloudtune.providers.local.machine import Machine, this_machine

if TYPE_CHECKING:
    from cloudtune.models.shape import ModelShape
    from cloudtune.offers.offer import Offer
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session
    from cloudtune.settings import Settings

CLOUDS = ("aws", "gcp")


def shape_of(recipe: Recipe, base_dir: Path, session: Session) -> ModelShape:
    """The model's shape: the recipe's config.json, the offline registry, a local folder, then the hub."""
    return find_shape(recipe.model.base, **_places(recipe, base_dir, session))


def config_of(recipe: Recipe, base_dir: Path, session: Session) -> tuple[Mapping[str, Any], str]:
    """(the model's config.json, where it is from), also where its shape is not known."""
    return find_config(recipe.model.base, **_places(recipe, base_dir, session))


def _places(recipe: Recipe, base_dir: Path, session: Session) -> dict[str, Any]:
    """Where a model's config is looked for; the hub's part is loaded when it is asked, because HTTP costs 20 ms."""

    def fetch(base: str, revision: str) -> dict[str, object]:
        from cloudtune.sources.hub import fetch_config

        return fetch_config(base, revision, cache_dir=session.settings.cache)

    config = base_dir / recipe.model.config if recipe.model.config else None
    return {"config": config, "base_dir": base_dir, "revision": recipe.model.revision, "fetch_config": fetch}


def asked_provider(recipe: Recipe, provider: str | None) -> str | None:
    """The one provider that will do, ``provider`` before the recipe's; None when they are to be compared."""
    asked = provider or recipe.compute.provider
    return None if asked == "auto" else asked


def offers_for(recipe: Recipe, provider: str | None, session: Session) -> tuple[Offer, ...]:
    """The offers of the provider asked for, else of the recipe's, in the recipe's regions."""
    asked = asked_provider(recipe, provider)
    return relevant(known_offers(asked, session), asked, recipe.compute.regions)


def known_offers(provider: str | None, session: Session) -> tuple[Offer, ...]:
    """This machine, and the shipped price tables with the user's catalog over them; or only those of ``provider``."""
    local = (_local(this_machine()),) if provider in (None, "local") else ()
    clouds = _clouds(session.settings) if provider is None else [name for name in CLOUDS if name == provider]
    return (*local, *(_possible(offer) for name in clouds for offer in offers_of(name, session.settings.home)))


def with_gpu(offers: Iterable[Offer], gpu: str | None) -> tuple[Offer, ...]:
    """The offers with ``gpu`` in their GPU's name alone. Raises UsageError when there is none."""
    if gpu is None:
        return tuple(offers)
    known = [offer for offer in offers if offer.gpu_count]
    names = sorted({offer.gpu.name for offer in known})
    wanted = named(gpu, names)
    if not wanted:
        raise UsageError(f"no machine has a GPU called {gpu!r}", hint=f"known: {', '.join(names)}" if names else "name another provider")
    return tuple(offer for offer in known if offer.gpu.name in wanted)


def named(gpu: str, names: Iterable[str]) -> frozenset[str]:
    """The name itself where there is such a GPU, else all that contain it: L4 is not L40S."""
    words = gpu.lower()
    known = list(names)
    same = frozenset(name for name in known if name.lower() == words)
    return same or frozenset(name for name in known if words in name.lower())


def _possible(offer: Offer) -> Offer:
    """The offer, blocked where a catalog has a price and the region has no such card for training."""
    if offer.blocked or offer.provider != "gcp" or availability(offer.region, offer.accelerator) != "no":
        return offer
    return replace(offer, blocked=f"Vertex AI has no {offer.gpu.name} for training in {offer.region}")


def _clouds(settings: Settings) -> tuple[str, ...]:
    """The clouds that there are settings for; all of them when there are none, so that planning needs no account."""
    set_up = {"aws": settings.aws_role or settings.aws_bucket, "gcp": settings.gcp_project or settings.gcp_bucket}
    return tuple(name for name in CLOUDS if set_up[name]) or CLOUDS


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
