"""Why an offer is out before, or whatever, its memory: named machines, number formats, budget, hours, patience. Pure."""

from __future__ import annotations

from cloudtune import cost
from cloudtune.offers.offer import Offer, unsupported
from cloudtune.planning.promises import missing_in_images, out_of_reach
from cloudtune.planning.ways import Timing, Way, without_checkpoints
from cloudtune.recipe.spec import QloraMethod, Recipe
from cloudtune.units import duration as spell
from cloudtune.units import usd

SLOWEST_USEFUL_HOURS = 1.0  # a CPU run above this is only chosen when the recipe or the command names `local`


def unfit_by_nature(recipe: Recipe, offer: Offer) -> str | None:
    """A reason that needs no arithmetic."""
    if recipe.compute.instance not in ("auto", offer.instance):
        return f"the recipe names {recipe.compute.instance}"
    if recipe.compute.purchase not in ("any", offer.purchase) and offer.purchase != "owned":
        return f"the recipe wants {recipe.compute.purchase}"
    if offer.blocked:
        return offer.blocked
    if (reason := missing_in_images(recipe, offer.provider)) is not None:
        return reason
    if offer.gpu_count and (reason := unsupported(offer.gpu, *_needs(recipe))) is not None:
        return reason
    if offer.usd_per_hour is not None:
        return None
    if recipe.compute.instance != offer.instance:
        return "its price is unknown; it is only taken when the recipe names it"
    return "its price is unknown, so budget.max_usd cannot be kept" if recipe.budget.max_usd is not None else None


def _needs(recipe: Recipe) -> tuple[str, ...]:
    """What the recipe asks of a card, in the words of ``offers.offer.RULES``."""
    quantization = recipe.method.quantization if isinstance(recipe.method, QloraMethod) else ""
    return (recipe.model.dtype, recipe.model.attention, quantization)


def beyond_limits(timing: Timing, offer: Offer, way: Way, *, named_provider: bool) -> str | None:
    """Why budget, max_hours, missing checkpoints, data elsewhere or patience rule a way out, in one sentence.

    Data of another cloud rules nothing out where the provider is named: a plan compares prices, and only a launch needs the data.
    """
    recipe = timing.recipe
    if recipe.budget.max_usd is not None and (reason := _over_budget(timing, offer, way, recipe.budget.max_usd)) is not None:
        return reason
    if recipe.compute.max_hours is not None and way.hours > recipe.compute.max_hours:
        return f"would take about {spell(way.seconds.expected)}, max_hours is {recipe.compute.max_hours:g}"
    if offer.purchase == "spot" and without_checkpoints(timing, way):
        return f"spot needs checkpoints, and save_steps {recipe.training.save_steps} is not reached in {timing.amount.steps} steps"
    if not named_provider and (reason := out_of_reach(recipe, offer.provider)) is not None:
        return reason
    if offer.gpu_count == 0 and not named_provider and way.hours > SLOWEST_USEFUL_HOURS:
        return f"would take about {spell(way.seconds.expected)} without a GPU; choose it with --provider local"
    return None


def _over_budget(timing: Timing, offer: Offer, way: Way, limit: float) -> str | None:
    """The budget becomes a time limit at the dearest price, so that price is what has to be within it."""
    rates = timing.rates(offer)
    ceiling = cost.run_usd(way.hours, rates.high, way.layout.nodes)
    if ceiling <= limit:
        return None
    if way.usd > limit:
        return f"would cost about {usd(way.usd)}, the budget is {usd(limit)}"
    return f"could cost {usd(ceiling)} where the discount is small, the budget is {usd(limit)}"
