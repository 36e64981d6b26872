"""The catalog as lines of text: machines with their prices, what a refresh brought, what differs. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloudtune.show.text import Column, Page, Row, table
from cloudtune.units import gib

if TYPE_CHECKING:
    from cloudtune.offers.catalog import Difference
    from cloudtune.verbs.catalog import Line, Refreshed

STALE_DAYS = 90
_MOST_CHANGES = 20


def offer_lines(offers: Sequence[Line], page: Page) -> list[str]:
    """One line per offer, the price with its date; old prices are said aloud below."""
    columns = [
        Column("provider"),
        Column("machine"),
        Column("GPUs"),
        Column("memory", "right"),
        Column("region"),
        Column("bought"),
        Column("USD/hour", "right"),
        Column("price of"),
        Column("", flexible=True),
    ]
    rows = [
        Row(
            [
                offer.provider,
                offer.instance,
                f"{offer.gpu_count} x {offer.gpu}",
                gib(offer.gpu_bytes),
                offer.region,
                offer.purchase,
                _price(offer),
                offer.price_date,
                offer.blocked,
            ],
            "dim" if offer.blocked or offer.usd_per_hour is None else None,
        )
        for offer in offers
    ]
    return [*table(page, columns, rows, indent=0), *_age(offers)]


def _price(offer: Line) -> str:
    if offer.usd_per_hour is None:
        return "unknown"
    if offer.usd_per_hour_low is not None and offer.usd_per_hour_high is not None:
        return f"{offer.usd_per_hour_low:.2f}-{offer.usd_per_hour_high:.2f}"
    return f"{offer.usd_per_hour:.4f}"


def _age(offers: Sequence[Line]) -> list[str]:
    ages = [offer.age_days for offer in offers if offer.age_days is not None]
    if not ages:
        return []
    said = f"prices are {min(ages)} to {max(ages)} days old" if min(ages) != max(ages) else f"prices are {max(ages)} days old"
    return ["", f"{said}; refresh them with: cloudtune catalog refresh" if max(ages) > STALE_DAYS else said]


def refreshed_lines(done: Sequence[Refreshed], page: Page) -> list[str]:
    """What was fetched and what it changed."""
    lines = []
    for item in done:
        lines.append(f"{item.provider}: {item.prices} prices of {item.fetched} in {item.path}")
        lines += difference_lines(item.changes[:_MOST_CHANGES], page)
        if len(item.changes) > _MOST_CHANGES:
            lines.append(f"  and {len(item.changes) - _MOST_CHANGES} more; see them with: cloudtune catalog diff")
    return lines


def difference_lines(found: Sequence[Difference], page: Page) -> list[str]:
    """One line per changed price."""
    if not found:
        return ["no price differs"]
    columns = [Column("machine"), Column("region"), Column("bought"), Column("before", "right"), Column("after", "right")]
    rows = [Row([item.instance, item.region, item.purchase, _amount(item.before), _amount(item.after)]) for item in found]
    return table(page, columns, rows)


def _amount(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
