"""What has changed since a plan was made: prices, offers, data, cloudtune itself. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cloudtune import cost
from cloudtune.offers import disks
from cloudtune.offers.offer import Offer
from cloudtune.planning.plan import Plan
from cloudtune.units import usd

PRICE_TOLERANCE = 0.0005  # of the rate: below it a difference is rounding


def changes(plan: Plan, offers: Iterable[Offer], inputs: Mapping[str, str], cloudtune_version: str) -> tuple[str, ...]:
    """One sentence for each difference between the plan and today; empty when nothing has changed.

    ``inputs`` are the fingerprints of the plan's local files now, as in ``Plan.inputs``.
    """
    said = [*_price(plan, offers), *_inputs(plan, inputs)]
    if plan.cloudtune_version != cloudtune_version:
        said.append(f"the plan was made by cloudtune {plan.cloudtune_version}, this is {cloudtune_version}")
    return tuple(said)


def _price(plan: Plan, offers: Iterable[Offer]) -> list[str]:
    chosen = plan.chosen
    if chosen.provider == "local":
        return []
    name = f"{chosen.instance} ({chosen.purchase}, {chosen.region})"
    same = [offer for offer in offers if _is(offer, plan)]
    if not same:
        return [f"{name} is no longer in the price tables"]
    offer = same[0]
    if offer.blocked:
        return [f"{name} cannot be used any more: {offer.blocked}"]
    if offer.usd_per_hour is None:
        return [f"the price of {name} is not known any more, the plan has {usd(chosen.usd_per_hour)} per hour"]
    rate = offer.usd_per_hour + _disk(plan, offer)
    if abs(rate - chosen.usd_per_hour) <= PRICE_TOLERANCE * max(rate, chosen.usd_per_hour):
        return []
    total = cost.run_usd(plan.hours, rate, plan.layout.nodes)
    was = usd(chosen.usd_per_hour)
    said = [f"{name} costs {usd(rate)} per hour, {was} when it was planned: about {usd(total)} in all instead of {usd(plan.usd)}"]
    limit = plan.recipe.budget.max_usd
    if limit is not None and total > limit:
        said.append(f"that is above the budget of {usd(limit)}")
    return said


def _is(offer: Offer, plan: Plan) -> bool:
    chosen = plan.chosen
    return (offer.provider, offer.region, offer.instance, offer.purchase) == (
        chosen.provider,
        chosen.region,
        chosen.instance,
        chosen.purchase,
    ) and offer.gpu.name == chosen.gpu


def _disk(plan: Plan, offer: Offer) -> float:
    size = plan.resolved.compute.disk_gib
    return disks.usd_per_hour(offer.provider, offer.disk_usd_per_gib_hour, size) if isinstance(size, int) else 0.0


def _inputs(plan: Plan, now: Mapping[str, str]) -> list[str]:
    said = []
    for path, fingerprint in sorted(plan.inputs.items()):
        if path not in now:
            said.append(f"{path} is not there any more")
        elif now[path] != fingerprint:
            said.append(f"{path} has changed since the plan was made: time and price may differ")
    return said
