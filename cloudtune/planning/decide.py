"""Recipe + shape + data + offers → Plan. The one entrance of the planner; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from cloudtune import cost
from cloudtune.errors import NothingFits
from cloudtune.memory.measured import NOTHING, Measurements
from cloudtune.models.shape import ModelShape
from cloudtune.offers.disks import basis
from cloudtune.offers.offer import Offer
from cloudtune.planning.advice import advise, halving
from cloudtune.planning.buckets import copied
from cloudtune.planning.calibrate import Calibration
from cloudtune.planning.choose import Manner, Option, Weighing, summary_of, weigh
from cloudtune.planning.plan import Advice, Candidate, Chosen, DataStats, Plan, Rejected
from cloudtune.planning.promises import out_of_reach, refuse_undone, without_effect
from cloudtune.planning.reckoner import device_of, fits
from cloudtune.planning.resolve import decisions, resolve
from cloudtune.planning.speeds import NETWORK_GBPS_UNKNOWN
from cloudtune.planning.ways import Rates
from cloudtune.recipe.digest import recipe_digest
from cloudtune.recipe.spec import Recipe
from cloudtune.units import duration as spell

STALE_DAYS = 90
MOST_FALLBACKS = 4


class NoOfferFits(NothingFits):
    """Nothing fits; ``rejected`` says why for each offer, ``advice`` what would change that."""

    def __init__(self, what: str, rejected: tuple[Rejected, ...], *, hint: str = "", advice: tuple[Advice, ...] = ()) -> None:
        self.rejected = rejected
        self.advice = advice
        super().__init__(what, hint=hint)


@dataclass(frozen=True, slots=True)
class Question:
    """Everything a plan depends on. ``provider``: the one asked for, None for any; ``today``: for the age of prices."""

    recipe: Recipe
    recipe_dir: str
    shape: ModelShape
    stats: DataStats
    offers: tuple[Offer, ...]
    provider: str | None
    cloudtune_version: str
    today: date
    calibration: Calibration = field(default_factory=Calibration)
    measured: Measurements = NOTHING

    def weigh(self) -> Weighing:
        """All offers weighed."""
        return self._weigh(self.recipe, first_only=False)

    def best_of(self, recipe: Recipe, ceiling_usd: float | None = None) -> Weighing:
        """A changed recipe weighed just until its best offer is known, or known to be dearer than the ceiling."""
        return self._weigh(recipe, first_only=True, ceiling_usd=ceiling_usd)

    def _weigh(self, recipe: Recipe, *, first_only: bool, ceiling_usd: float | None = None) -> Weighing:
        manner = Manner(self.provider is not None, first_only, self.calibration, self.measured, ceiling_usd)
        return weigh(recipe, self.shape, self.stats, self.offers, manner)


def decide(question: Question) -> Plan:
    """The plan. Raises NoOfferFits, with the reason for every offer and what would help, when no offer will do."""
    refuse_undone(question.recipe)
    weighing = question.weigh()
    if not weighing.options:
        advice = advise(question.recipe, question.best_of)
        hint = "; or ".join(item.effect for item in advice) or "look at compute and budget in the recipe, or name another provider"
        raise NoOfferFits(_nothing(question, weighing), weighing.rejected, hint=hint, advice=advice)
    return _plan(question, weighing, weighing.options[0])


def _nothing(question: Question, weighing: Weighing) -> str:
    if not weighing.rejected:
        where = question.provider or "any provider"
        return f"no machine of {where} is known in regions {', '.join(question.recipe.compute.regions)}"
    return f"none of {len(weighing.rejected)} machines will do:\n{summary_of(weighing.rejected)}"


def _plan(question: Question, weighing: Weighing, best: Option) -> Plan:
    recipe, offer, way = question.recipe, best.offer, best.way
    rates = weighing.timing.rates(offer)
    chosen = chosen_of(offer, rates, weighing.timing.disk_usd_per_hour(offer))
    resolved = resolve(
        recipe,
        question.shape,
        way.layout,
        chosen,
        weighing.amount,
        seconds=way.training.expected,
        save_every=weighing.timing.wanted_interval(offer.purchase),
    )
    hours, low, high = (value / 3600 for value in (way.seconds.expected, way.seconds.low, way.seconds.high))
    nodes = way.layout.nodes
    limit = cost.time_limit_seconds(max_usd=recipe.budget.max_usd, max_hours=recipe.compute.max_hours, usd_per_hour=rates.high, nodes=nodes)
    return Plan(
        cloudtune_version=question.cloudtune_version,
        recipe=recipe,
        recipe_dir=question.recipe_dir,
        recipe_digest=recipe_digest(recipe),
        resolved=resolved,
        memory=weighing.memory(best),
        layout=way.layout,
        chosen=chosen,
        data=question.stats,
        steps=weighing.amount.steps,
        hours=hours,
        hours_low=low,
        hours_high=high,
        usd=cost.run_usd(hours, rates.expected, nodes),
        usd_low=cost.run_usd(low, rates.low, nodes),
        usd_high=cost.run_usd(high, rates.high, nodes),
        max_seconds=limit,
        candidates=tuple(option.candidate() for option in weighing.options),
        rejected=weighing.rejected,
        decisions=decisions(recipe, resolved, way.layout),
        warnings=(*_warnings(question, offer, high * 3600, limit), *_unknown_speed(offer, nodes)),
        fallbacks=_fallbacks(weighing, best),
        training_seconds=weighing.timing.uncorrected_seconds(offer, way),
        advice=halving(recipe, best.way.usd, question.best_of) if recipe.compute.provider != "local" else (),
    )


def chosen_of(offer: Offer, rates: Rates, disk_usd_per_hour: float) -> Chosen:
    """An offer as the plan records it, with its disk in the price."""
    disk = round(disk_usd_per_hour, 6) if offer.usd_per_hour else 0.0
    return Chosen(
        provider=offer.provider,
        region=offer.region,
        instance=offer.instance,
        purchase=offer.purchase,
        gpu=offer.gpu.name if offer.gpu_count else "cpu",
        gpu_bytes=device_of(offer).total_bytes,
        usd_per_hour=rates.expected,
        price_date=offer.price_date,
        accelerator=offer.accelerator,
        disk_usd_per_hour=disk,
        disk_basis=basis(offer.provider, offer.region, offer.instance) if disk else "",
        usd_per_hour_high=rates.high if rates.high > rates.expected else None,
    )


def _fallbacks(weighing: Weighing, best: Option) -> tuple[Candidate, ...]:
    """Runners-up at the same place that run the very layout of the choice: its job file stays true on them."""
    found = []
    for option in weighing.options[1:]:
        same_place = (option.offer.provider, option.offer.region, option.offer.purchase) == (
            best.offer.provider,
            best.offer.region,
            best.offer.purchase,
        )
        if not same_place or option.offer.gpu_count != best.offer.gpu_count or not _runs(weighing, option, best):
            continue
        way = weighing.timing.way(option.offer, best.layout)
        found.append(Option(option.offer, way).candidate())
        if len(found) == MOST_FALLBACKS:
            break
    return tuple(found)


def _runs(weighing: Weighing, option: Option, best: Option) -> bool:
    """Whether the choice's layout fits the option's GPU, without another replay where that is already known."""
    device = device_of(option.offer)
    if device == device_of(best.offer) or weighing.reckoner.bounds(device, best.layout)[1] <= device.total_bytes:
        return True
    return option.layout == best.layout and fits(weighing.reckoner.estimate(device, best.layout), device)


def _warnings(question: Question, offer: Offer, longest: float, limit: int | None) -> tuple[str, ...]:
    """``longest``: the upper end of the time in seconds; ``limit``: when the server ends the job."""
    said = list(without_effect(question.recipe))
    if (away := out_of_reach(question.recipe, offer.provider)) is not None:
        said.append(f"it cannot be launched: {away}")
    if (brought := copied(question.recipe, offer.provider)) is not None:
        said.append(brought)
    if limit is not None and longest > limit:
        said.append(f"the job is ended after {spell(limit)} by budget or max_hours, and may take up to {spell(longest)}")
    if offer.usd_per_hour is None:
        said.append(f"the price of {offer.instance} is unknown: nothing is known of what this run will cost")
    positions = question.shape.max_positions
    if positions is not None and question.recipe.data.max_length > positions:
        said.append(f"data.max_length {question.recipe.data.max_length} is longer than the model's {positions} positions")
    if question.stats.basis in ("sampled", "assumed"):
        said.append(f"the number of tokens is {question.stats.basis}, not counted: time and price are as uncertain as that")
    days = price_age_days(offer.price_date, question.today)
    if days is not None and days > STALE_DAYS:
        said.append(f"the price of {offer.instance} is {days} days old; refresh it with: cloudtune catalog refresh")
    return tuple(said)


def _unknown_speed(offer: Offer, nodes: int) -> tuple[str, ...]:
    """Said where the time of several machines rests on a guess."""
    if nodes == 1 or offer.network_gbps is not None:
        return ()
    return (f"how fast {offer.instance} machines talk to each other is not known: {NETWORK_GBPS_UNKNOWN:g} Gbit/s is assumed",)


def price_age_days(price_date: str, today: date) -> int | None:
    """Days since an ISO date; None when there is no date."""
    try:
        return (today - date.fromisoformat(price_date)).days
    except ValueError:
        return None
