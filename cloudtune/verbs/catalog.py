"""The verb ``catalog``: machines and prices as the planner sees them; fetches newer prices and says what they change.

A refresh replaces the user's catalog of a provider in one step, after the whole list was read and understood: whatever
goes wrong before that leaves the old one in place. The shipped tables are never touched.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.offers import catalog
from cloudtune.offers.catalog import Catalog, Difference
from cloudtune.offers.lookup import PROVIDERS, known_regions, load_offers
from cloudtune.planning.decide import price_age_days

if TYPE_CHECKING:
    from cloudtune.offers.offer import Offer
    from cloudtune.session import Session


@dataclass(frozen=True, slots=True)
class Line:
    """One offer for people and programs. ``age_days`` is that of its price; None = the price is unknown."""

    provider: str
    instance: str
    accelerator: str
    region: str
    purchase: str
    gpu: str
    gpu_count: int
    gpu_bytes: int
    vcpus: int
    host_memory_bytes: int
    usd_per_hour: float | None
    usd_per_hour_low: float | None
    usd_per_hour_high: float | None
    price_date: str
    age_days: int | None
    blocked: str
    source: str


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh brought for one provider."""

    provider: str
    fetched: str
    prices: int
    path: Path
    changes: tuple[Difference, ...]


def list_offers(
    session: Session, *, provider: str | None = None, region: str | None = None, gpu: str | None = None, instance: str | None = None
) -> tuple[Line, ...]:
    """Offers, filtered, by provider, machine and purchase. ``gpu`` is a part of its name. Raises UsageError when none is left."""
    found = [
        offer
        for name in _providers(provider)
        for offer in catalog.offers_of(name, session.settings.home)
        if (region is None or offer.region == region)
        and (gpu is None or gpu.lower() in offer.gpu.name.lower())
        and (instance is None or offer.instance == instance)
    ]
    if not found:
        raise UsageError("no machine of the catalog is like that", hint="see all of them with: cloudtune catalog list")
    return tuple(_line(offer, session) for offer in found)


def refresh(
    session: Session, *, provider: str | None = None, regions: Collection[str] = (), url: str | None = None
) -> tuple[Refreshed, ...]:
    """Fetch the prices of all known machine types and replace the user's catalogs. ``url``: another price list of ``provider``.

    Raises SourceError; the old catalog then stays.
    """
    if url is not None and provider is None:
        raise UsageError("an address is that of one provider's price list", hint="add --provider aws or --provider gcp")
    return tuple(_refresh_one(session, name, regions or known_regions(name), url) for name in _providers(provider))


def diff(session: Session, *, provider: str | None = None) -> tuple[Difference, ...]:
    """What the user's catalogs change against the shipped tables."""
    home = session.settings.home
    return tuple(item for name in _providers(provider) for item in catalog.differences(load_offers(name), catalog.offers_of(name, home)))


def _providers(provider: str | None) -> tuple[str, ...]:
    if provider is None:
        return PROVIDERS
    if provider not in PROVIDERS:
        raise UsageError(f"there are no prices for {provider}", hint=f"known providers: {', '.join(PROVIDERS)}")
    return (provider,)


def _refresh_one(session: Session, provider: str, regions: Collection[str], url: str | None) -> Refreshed:
    home = session.settings.home
    before = catalog.offers_of(provider, home) if _readable(home, provider) else load_offers(provider)
    fetched = _fetch(session, provider, regions, url)
    path = catalog.catalog_file(home, provider)
    _replace(path, catalog.to_text(fetched))
    changes = catalog.differences(before, catalog.offers_of(provider, home))
    return Refreshed(provider, fetched.fetched, len(fetched.prices), path, changes)


def _readable(home: Path, provider: str) -> bool:
    """Whether the old catalog can be compared with; a damaged one is simply replaced."""
    try:
        catalog.read_catalog(home, provider)
    except UsageError:
        return False
    return True


def _fetch(session: Session, provider: str, regions: Collection[str], url: str | None) -> Catalog:
    shipped = load_offers(provider)
    today = session.clock.now().date()
    if provider == "aws":
        from cloudtune.sources import aws_prices

        instances = {offer.instance for offer in shipped}
        return aws_prices.fetch(regions, instances, session.clock, today, url or aws_prices.URL)
    from cloudtune.sources import gcp_prices

    return gcp_prices.fetch(regions, shipped, session.clock, today, url or gcp_prices.URL)


def _replace(path: Path, text: str) -> None:
    """Write beside the old file, then take its place in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        raise UsageError(f"the catalog cannot be written: {error.strerror}", where=str(path)) from error


def _line(offer: Offer, session: Session) -> Line:
    return Line(
        provider=offer.provider,
        instance=offer.instance,
        accelerator=offer.accelerator,
        region=offer.region,
        purchase=offer.purchase,
        gpu=offer.gpu.name,
        gpu_count=offer.gpu_count,
        gpu_bytes=offer.gpu.memory_bytes,
        vcpus=offer.vcpus,
        host_memory_bytes=offer.host_memory_bytes,
        usd_per_hour=offer.usd_per_hour,
        usd_per_hour_low=offer.usd_per_hour_low,
        usd_per_hour_high=offer.usd_per_hour_high,
        price_date=offer.price_date,
        age_days=price_age_days(offer.price_date, session.clock.now().date()),
        blocked=offer.blocked,
        source=offer.source,
    )
