"""SageMaker managed spot as a range: no price is published, the discount shows only on the bill. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cloudtune.offers.offer import Offer

# 30 to 70 % off is what AWS advertises and users report (aws.amazon.com/sagemaker, November 2026); on-demand is the ceiling.
LOW, EXPECTED, HIGH = 0.3, 0.5, 1.0


def with_managed_spot(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """The offers, each on-demand one followed by its spot twin; a twin of an unknown price is unknown too."""
    found: list[Offer] = []
    for offer in offers:
        found.append(offer)
        if offer.purchase == "on_demand":
            found.append(_twin(offer))
    return tuple(found)


def _twin(offer: Offer) -> Offer:
    spot = replace(offer, purchase="spot", source=f"{offer.source}; managed spot is reported at 30-70 % off, on-demand is the ceiling")
    price = offer.usd_per_hour
    if price is None:
        return spot
    low, expected, high = (round(price * part, 4) for part in (LOW, EXPECTED, HIGH))
    return replace(spot, usd_per_hour=expected, usd_per_hour_low=low, usd_per_hour_high=high)
