"""The user's dated catalog over the shipped one: prices that were fetched later win. Pure, except for reading one file.

A catalog is one JSON file per provider in ``<home>/catalog``. It holds prices only; what a machine is made of comes
from the shipped tables, so a price of an unknown machine type is kept but makes no offer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, cast

from cloudtune.errors import UsageError
from cloudtune.offers.lookup import load_offers
from cloudtune.offers.offer import Offer, Purchase
from cloudtune.offers.spot import with_managed_spot

VERSION = 1
_HINT = "delete it, or run: cloudtune catalog refresh"
_PURCHASES = ("on_demand", "spot", "flex_start", "reserved")


@dataclass(frozen=True, slots=True, order=True)
class Price:
    """One price of one machine type: USD per hour, all-in but the boot disk."""

    instance: str
    accelerator: str
    region: str
    purchase: str
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """Prices of one provider as fetched on ``fetched`` (ISO date) from ``source``."""

    provider: str
    fetched: str
    source: str
    prices: tuple[Price, ...]


def catalog_file(home: Path, provider: str) -> Path:
    """Where the user's catalog of a provider lies."""
    return home / "catalog" / f"{provider}.json"


def to_text(catalog: Catalog) -> str:
    """A catalog as the text of its file."""
    body = {**asdict(catalog), "version": VERSION, "prices": [asdict(price) for price in sorted(catalog.prices)]}
    return json.dumps(body, indent=1, sort_keys=True) + "\n"


def from_text(text: str, where: str) -> Catalog:
    """The inverse of ``to_text``. Raises UsageError for anything else."""
    try:
        body = json.loads(text)
        date.fromisoformat(body["fetched"])
        prices = tuple(_price(item) for item in body["prices"])
        known = body["version"] == VERSION
        read = Catalog(str(body["provider"]), body["fetched"], str(body["source"]), prices)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError("this is no price catalog of cloudtune", where=where, hint=_HINT) from error
    if not known:
        raise UsageError("this price catalog is from another version of cloudtune", where=where, hint=_HINT)
    return read


def _price(item: dict[str, Any]) -> Price:
    value = float(item["usd_per_hour"])
    if not 0 < value < 100_000 or item["purchase"] not in _PURCHASES:
        raise ValueError("a price out of range")
    return Price(str(item["instance"]), str(item["accelerator"]), str(item["region"]), str(item["purchase"]), value)


def read_catalog(home: Path, provider: str) -> Catalog | None:
    """The user's catalog; None when there is none. Raises UsageError when the file is damaged."""
    path = catalog_file(home, provider)
    try:
        return from_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the price catalog cannot be read", where=str(path), hint="delete it, or run: cloudtune catalog refresh"
        ) from error


def merged(shipped: Sequence[Offer], catalog: Catalog | None) -> tuple[Offer, ...]:
    """The shipped offers with the catalog's later prices in place, and offers of further regions that it knows prices of."""
    if catalog is None:
        return tuple(shipped)
    newer = {(price.instance, price.accelerator, price.region, price.purchase): price for price in catalog.prices}
    found = []
    for offer in shipped:
        price = newer.pop((offer.instance, offer.accelerator, offer.region, offer.purchase), None)
        found.append(_priced(offer, price, catalog) if price is not None and catalog.fetched >= offer.price_date else offer)
    machines = {(offer.instance, offer.accelerator): offer for offer in reversed(shipped)}
    elsewhere = [price for price in sorted(newer.values()) if (price.instance, price.accelerator) in machines]
    found.extend(_priced(_moved(machines[price.instance, price.accelerator], price), price, catalog) for price in elsewhere)
    return tuple(found)


def _moved(machine: Offer, price: Price) -> Offer:
    return replace(machine, region=price.region, purchase=cast("Purchase", price.purchase))


def _priced(offer: Offer, price: Price, catalog: Catalog) -> Offer:
    return replace(
        offer,
        usd_per_hour=price.usd_per_hour,
        usd_per_hour_low=None,
        usd_per_hour_high=None,
        price_date=catalog.fetched,
        source=catalog.source,
    )


def offers_of(provider: str, home: Path | None) -> tuple[Offer, ...]:
    """All offers of a provider: the shipped ones, with the user's catalog over them when ``home`` has one."""
    shipped = load_offers(provider)
    catalog = read_catalog(home, provider) if home is not None else None
    if provider != "aws" or catalog is None:
        return merged(shipped, catalog)
    # Managed spot has no price of its own: it follows the on-demand price, whichever that is.
    return with_managed_spot(merged([offer for offer in shipped if offer.purchase != "spot"], catalog))


@dataclass(frozen=True, slots=True)
class Difference:
    """One offer whose price differs between two catalogs; None = unknown or not there."""

    provider: str
    instance: str
    region: str
    purchase: str
    before: float | None
    after: float | None


def differences(before: Iterable[Offer], after: Iterable[Offer]) -> tuple[Difference, ...]:
    """What differs, by machine, region and purchase."""
    old, new = ({_key(offer): offer.usd_per_hour for offer in offers} for offers in (before, after))
    return tuple(
        Difference(provider, f"{instance}{' + ' + accelerator if accelerator else ''}", region, purchase, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        for provider, instance, accelerator, region, purchase in [key]
        if old.get(key) != new.get(key)
    )


def _key(offer: Offer) -> tuple[str, str, str, str, str]:
    return offer.provider, offer.instance, offer.accelerator if offer.provider == "gcp" else "", offer.region, offer.purchase
