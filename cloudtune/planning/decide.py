"""Recipe + shape + data + offers → Plan. The one entrance of the planner; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cloudtune import cost
from cloudtune.errors import NothingFits
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import Offer
from cloudtune.planning.choose import Option, Weighing, device_of, summary_of, weigh
from cloudtune.planning.plan import Chosen, DataStats, Plan, Rejected
from cloudtune.planning.resolve import decisions, resolve
from cloudtune.recipe.digest import recipe_digest
from cloudtune.recipe.spec import Recipe


class NoOfferFits(NothingFits):
    """Nothing fits; ``rejected`` says why for each offer."""

    def __init__(self, what: str, rejected: tuple[Rejected, ...], *, hint: str = "") -> None:
        self.rejected = rejected
        super().__init__(what, hint=hint)


@dataclass(frozen=True, slots=True)
class Question:
    """Everything a plan depends on. ``provider``: the one asked for, None for any."""

    recipe: Recipe
    recipe_dir: str
    shape: ModelShape
    stats: DataStats
    offers: tuple[Offer, ...]
    provider: str | None
    cloudtune_version: str


def relevant(offers: Iterable[Offer], provider: str | None, regions: Iterable[str]) -> tuple[Offer, ...]:
    """The offers of the provider asked for, in the recipe's regions (this machine is in every region)."""
    wanted = set(regions)
    return tuple(
        offer
        for offer in offers
        if (provider is None or offer.provider == provider) and (offer.provider == "local" or offer.region in wanted)
    )


def decide(question: Question) -> Plan:
    """The plan. Raises NoOfferFits, with the reason for every offer, when no offer will do."""
    weighing = weigh(question.recipe, question.shape, question.stats, question.offers, named_provider=question.provider is not None)
    if not weighing.options:
        raise NoOfferFits(
            _nothing(question, weighing),
            weighing.rejected,
            hint="try method.type: qlora, a shorter data.max_length, gradient_checkpointing: true, or another provider",
        )
    return _plan(question, weighing, weighing.options[0])


def _nothing(question: Question, weighing: Weighing) -> str:
    if not weighing.rejected:
        where = question.provider or "any provider"
        return f"no machine of {where} is known in regions {', '.join(question.recipe.compute.regions)}"
    return f"none of {len(weighing.rejected)} machines will do:\n{summary_of(weighing.rejected)}"


def _plan(question: Question, weighing: Weighing, best: Option) -> Plan:
    recipe, offer, layout = question.recipe, best.offer, best.layout
    rate = offer.usd_per_hour or 0.0
    device = device_of(offer)
    chosen = Chosen(
        provider=offer.provider,
        region=offer.region,
        instance=offer.instance,
        purchase=offer.purchase,
        gpu=offer.gpu.name if offer.gpu_count else "cpu",
        gpu_bytes=device.total_bytes,
        usd_per_hour=rate,
        price_date=offer.price_date,
    )
    resolved = resolve(recipe, question.shape, layout, chosen, weighing.amount, best.training.expected)
    hours, low, high = (value / 3600 for value in (best.seconds.expected, best.seconds.low, best.seconds.high))
    return Plan(
        cloudtune_version=question.cloudtune_version,
        recipe=recipe,
        recipe_dir=question.recipe_dir,
        recipe_digest=recipe_digest(recipe),
        resolved=resolved,
        memory=best.memory,
        layout=layout,
        chosen=chosen,
        data=question.stats,
        steps=weighing.amount.steps,
        hours=hours,
        hours_low=low,
        hours_high=high,
        usd=cost.run_usd(hours, rate, layout.nodes),
        usd_low=cost.run_usd(low, rate, layout.nodes),
        usd_high=cost.run_usd(high, rate, layout.nodes),
        max_seconds=cost.time_limit_seconds(
            max_usd=recipe.budget.max_usd, max_hours=recipe.compute.max_hours, usd_per_hour=rate, nodes=layout.nodes
        ),
        candidates=tuple(option.candidate() for option in weighing.options),
        rejected=weighing.rejected,
        decisions=decisions(recipe, resolved, layout),
        warnings=_warnings(question),
    )


def _warnings(question: Question) -> tuple[str, ...]:
    said = []
    positions = question.shape.max_positions
    if positions is not None and question.recipe.data.max_length > positions:
        said.append(f"data.max_length {question.recipe.data.max_length} is longer than the model's {positions} positions")
    if question.stats.basis in ("sampled", "assumed"):
        said.append(f"the number of tokens is {question.stats.basis}, not counted: time and price are as uncertain as that")
    return tuple(said)
