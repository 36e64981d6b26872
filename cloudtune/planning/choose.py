"""Offers → candidates and rejections → the choice. Pure: the same input gives the same plan, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloudtune import cost
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.memory.reckon import estimate_memory
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import Offer
from cloudtune.planning import duration
from cloudtune.planning.layout import Fit, best_fit
from cloudtune.planning.plan import Candidate, DataStats, Rejected
from cloudtune.planning.resolve import Amount, amount_of_work, before_layout
from cloudtune.recipe.locations import is_builtin
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import duration as spell
from cloudtune.units import gib, usd

# A machine bought as spot is taken away about once in this many hours: a class value; neither cloud promises one.
SPOT_HOURS_BETWEEN_INTERRUPTIONS = 8.0
RESTART_HOURS = 0.2
SLOWEST_USEFUL_HOURS = 24.0  # a CPU run above this is only chosen when the recipe or the command names `local`


@dataclass(frozen=True, slots=True)
class Option:
    """One offer that will do, with everything that was reckoned for it. ``seconds`` includes start-up."""

    offer: Offer
    layout: Layout
    memory: Estimate
    training: duration.Seconds
    seconds: duration.Seconds
    usd: float
    risk_usd: float

    def candidate(self) -> Candidate:
        return Candidate(
            provider=self.offer.provider,
            region=self.offer.region,
            instance=self.offer.instance,
            purchase=self.offer.purchase,
            hours=self.seconds.expected / 3600,
            usd=self.usd,
            risk_usd=self.risk_usd,
            layout=self.layout,
        )


@dataclass(frozen=True, slots=True)
class Weighing:
    """All offers weighed: ``options`` best first, ``rejected`` in the order of the offers."""

    options: tuple[Option, ...]
    rejected: tuple[Rejected, ...]
    amount: Amount
    leanest: Fit | None = None


@dataclass(slots=True)
class _Bench:
    """What weighing one offer needs, and the memory estimates already made (shared by GPU and layout)."""

    recipe: Recipe
    shape: ModelShape
    amount: Amount
    named_provider: bool
    known: dict[tuple[Device, Layout], Estimate] = field(default_factory=dict)

    def memory(self, device: Device, layout: Layout) -> Estimate:
        key = (device, layout)
        if key not in self.known:
            self.known[key] = estimate_memory(self.recipe, self.shape, layout, device)
        return self.known[key]


def weigh(recipe: Recipe, shape: ModelShape, stats: DataStats, offers: Iterable[Offer], *, named_provider: bool) -> Weighing:
    """Weigh every offer. ``named_provider``: somebody asked for this provider, so a slow CPU is no reason to refuse."""
    ready = before_layout(recipe, shape)
    bench = _Bench(ready, shape, amount_of_work(recipe, stats), named_provider)
    options: list[Option] = []
    rejected: list[Rejected] = []
    leanest: Fit | None = None
    for offer in offers:
        outcome, fit = _weigh_one(bench, offer)
        if isinstance(outcome, Option):
            options.append(outcome)
        else:
            rejected.append(outcome)
        if fit is not None and (leanest is None or fit.estimate.peak_bytes < leanest.estimate.peak_bytes):
            leanest = fit
    return Weighing(tuple(sorted(options, key=_order(recipe))), tuple(rejected), bench.amount, leanest)


def _order(recipe: Recipe):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a sort key
    def key(option: Option) -> tuple[float, float, str, str, str]:
        by = (
            (option.risk_usd, option.seconds.expected)
            if recipe.budget.objective == "cheapest"
            else (
                option.seconds.expected,
                option.risk_usd,
            )
        )
        return (*by, option.offer.provider, option.offer.instance, f"{option.offer.region}/{option.offer.purchase}")

    return key


def _weigh_one(bench: _Bench, offer: Offer) -> tuple[Option | Rejected, Fit | None]:
    recipe = bench.recipe
    if (reason := _unfit_by_nature(recipe, offer)) is not None:
        return _rejected(offer, reason), None
    nodes = 1 if recipe.compute.nodes == "auto" else recipe.compute.nodes
    device = device_of(offer)
    fit = best_fit(
        recipe,
        nodes=nodes,
        gpus=offer.gpu_count,
        limit_bytes=device.total_bytes,
        memory_of=lambda layout: bench.memory(device, layout),
    )
    if isinstance(fit, str):
        return _rejected(offer, fit), None
    if not fit.fits:
        needs, has = fit.estimate.high_bytes, device.total_bytes
        reason = f"needs {gib(needs)}, has {gib(has)} usable"
        return _rejected(offer, reason, needs, has), fit
    option = _option(bench, offer, fit)
    if (reason := _beyond_limits(bench, option)) is not None:
        return _rejected(offer, reason), fit
    return option, fit


def device_of(offer: Offer) -> Device:
    """The memory device of an offer: one of its GPUs, or the host when it has none."""
    if offer.gpu_count == 0:
        return Device.cpu(total_bytes=offer.host_memory_bytes)
    return Device.cuda(offer.gpu.name, total_bytes=offer.gpu.memory_bytes, compute_capability=offer.gpu.compute_capability)


def _unfit_by_nature(recipe: Recipe, offer: Offer) -> str | None:
    """A reason that needs no arithmetic."""
    if recipe.compute.instance not in ("auto", offer.instance):
        return f"the recipe names {recipe.compute.instance}"
    if recipe.compute.purchase not in ("any", offer.purchase) and offer.purchase != "owned":
        return f"the recipe wants {recipe.compute.purchase}"
    if offer.usd_per_hour is None and recipe.compute.instance != offer.instance:
        return "its price is unknown; it is only taken when the recipe names it"
    if offer.gpu_count and recipe.model.dtype == "bfloat16" and not offer.gpu.bf16:
        return f"{offer.gpu.name} has no bfloat16; model.dtype: float16 would allow it"
    return None


def _option(bench: _Bench, offer: Offer, fit: Fit) -> Option:
    recipe, shape, amount = bench.recipe, bench.shape, bench.amount
    evaluates = recipe.data.eval is not None
    work = duration.Workload(
        tokens=amount.steps * amount.tokens_per_step,
        sequence_tokens=max(1, amount.tokens_per_step // recipe.training.batch_size),
        eval_tokens=round(amount.eval_rows * amount.tokens_per_step / recipe.training.batch_size),
        evaluations=6 if evaluates else 0,
    )
    training = duration.training_seconds(
        shape,
        work,
        method=recipe.method.type,
        checkpointing=fit.layout.gradient_checkpointing,
        gpu=offer.gpu.name if offer.gpu_count else "cpu",
        workers=fit.layout.data_parallel,
    )
    start = duration.startup_seconds(offer.provider, shape.parameters * 2, builtin=is_builtin(recipe.model.base))
    seconds = training.plus(start)
    hours = seconds.expected / 3600
    price = cost.run_usd(hours, offer.usd_per_hour or 0.0, fit.layout.nodes)
    risk = price
    if offer.purchase == "spot":
        risk = cost.interruption_weighted_usd(
            price, hours, interruptions_per_hour=1 / SPOT_HOURS_BETWEEN_INTERRUPTIONS, lost_hours_each=RESTART_HOURS
        )
    return Option(offer, fit.layout, fit.estimate, training, seconds, price, risk)


def _beyond_limits(bench: _Bench, option: Option) -> str | None:
    """Why budget, max_hours or patience rule an option out, in one sentence."""
    recipe = bench.recipe
    hours = option.seconds.expected / 3600
    if recipe.budget.max_usd is not None and option.usd > recipe.budget.max_usd:
        return f"would cost about {usd(option.usd)}, the budget is {usd(recipe.budget.max_usd)}"
    if recipe.compute.max_hours is not None and hours > recipe.compute.max_hours:
        return f"would take about {spell(option.seconds.expected)}, max_hours is {recipe.compute.max_hours:g}"
    if option.offer.gpu_count == 0 and not bench.named_provider and hours > SLOWEST_USEFUL_HOURS:
        return f"would take about {spell(option.seconds.expected)} without a GPU; choose it with --provider local"
    return None


def _rejected(offer: Offer, reason: str, needs: int | None = None, has: int | None = None) -> Rejected:
    return Rejected(
        provider=offer.provider,
        region=offer.region,
        instance=offer.instance,
        purchase=offer.purchase,
        reason=reason,
        needs_bytes=needs,
        has_bytes=has,
    )


def summary_of(rejected: Sequence[Rejected], most: int = 5) -> str:
    """The rejections in a few lines, those that came closest first."""
    close = sorted(rejected, key=lambda item: (item.needs_bytes or 0) - (item.has_bytes or 0) if item.needs_bytes else 1 << 62)
    lines = [f"{item.provider} {item.instance} ({item.purchase}): {item.reason}" for item in close[:most]]
    if len(rejected) > most:
        lines.append(f"and {len(rejected) - most} more")
    return "\n".join(lines)
