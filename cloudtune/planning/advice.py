"""What would make it fit, or halve its price: each change is planned, so its effect is computed and not guessed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cloudtune.planning.choose import Option, Weighing
from cloudtune.planning.plan import Advice
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod, Recipe
from cloudtune.units import duration as spell
from cloudtune.units import gib, usd

MOST = 3
MOST_TOGETHER = 6
WORTH_HALVING_USD = 1.0
SHORTEST_LENGTH = 512
Weigh = Callable[[Recipe], Weighing]
WeighBelow = Callable[[Recipe, float], Weighing]


@dataclass(frozen=True, slots=True)
class _Change:
    """``words`` is what the user would write; ``recipe`` the recipe with it."""

    words: str
    recipe: Recipe


def advise(recipe: Recipe, weigh: Weigh) -> tuple[Advice, ...]:
    """Up to three changes, the smallest first, each of which alone makes some machine do."""
    found = []
    for change in _to_fit(recipe):
        weighing = weigh(change.recipe)
        if weighing.options:
            found.append(_advice(change, weighing, weighing.options[0], "it fits"))
        if len(found) == MOST:
            break
    return tuple(found) or _together(recipe, weigh)


def _together(recipe: Recipe, weigh: Weigh) -> tuple[Advice, ...]:
    """Where no change alone is enough: one after the other until some machine will do."""
    words: dict[str, str] = {}
    current = recipe
    for _ in range(MOST_TOGETHER):
        change = next((item for item in _to_fit(current) if item.words not in words.values()), None)
        if change is None:
            return ()
        current = change.recipe
        words[change.words.partition("=")[0]] = change.words
        weighing = weigh(current)
        if weighing.options:
            together = _Change(" and ".join(words.values()), current)
            return (_advice(together, weighing, weighing.options[0], "it fits"),)
    return ()


def halving(recipe: Recipe, price: float, weigh: WeighBelow) -> tuple[Advice, ...]:
    """Changes that bring the price to half or less; none are looked for below a dollar."""
    if price < WORTH_HALVING_USD:
        return ()
    found = []
    for change in _to_save(recipe):
        weighing = weigh(change.recipe, price / 2)
        if weighing.options and weighing.options[0].way.usd <= price / 2:
            found.append(_advice(change, weighing, weighing.options[0], f"the price falls from {usd(price)}"))
    return tuple(found)


def _advice(change: _Change, weighing: Weighing, best: Option, gain: str) -> Advice:
    peak = weighing.memory(best).peak_bytes
    nodes = f"{best.layout.nodes} x " if best.layout.nodes > 1 else ""
    effect = (
        f"with {change.words} {gain}: {nodes}{best.offer.instance} ({best.offer.purchase}), "
        f"{gib(peak)} per GPU, about {spell(best.way.seconds.expected)} for {usd(best.way.usd)}"
    )
    return Advice(change=change.words, effect=effect, usd=best.way.usd, hours=best.way.hours, peak_bytes=peak, instance=best.offer.instance)


def _to_fit(recipe: Recipe) -> Iterator[_Change]:
    """Changes that save memory or lift a limit, from harmless to far-reaching."""
    training = recipe.training
    if training.gradient_checkpointing is False:
        yield _training(recipe, "gradient_checkpointing", value=True)
    if training.micro_batch_size != "auto":
        yield _training(recipe, "micro_batch_size", value="auto")
    if recipe.compute.instance != "auto":
        yield _compute(recipe, "instance", "auto")
    if recipe.compute.purchase != "any":
        yield _compute(recipe, "purchase", "any")
    if isinstance(recipe.method, FullMethod) and training.optimizer == "adamw_torch_fused":
        yield _training(recipe, "optimizer", value="paged_adamw_8bit")
    if training.optimizer not in ("adamw_torch_fused", "adamw_torch") and isinstance(recipe.method, FullMethod):
        yield _training(recipe, "optimizer", value="adamw_torch_fused")
    yield from _cheaper_methods(recipe)
    if recipe.data.max_length >= 2 * SHORTEST_LENGTH:
        yield _shorter(recipe)
    yield from _looser_limits(recipe)


def _to_save(recipe: Recipe) -> Iterator[_Change]:
    """Changes that save money without touching a limit that somebody set."""
    yield from _cheaper_methods(recipe)
    if recipe.compute.purchase == "on_demand":
        yield _compute(recipe, "purchase", "any")
    if recipe.compute.instance != "auto":
        yield _compute(recipe, "instance", "auto")


def _looser_limits(recipe: Recipe) -> Iterator[_Change]:
    if recipe.training.max_steps is None and (recipe.training.epochs or 3.0) > 1:
        yield _training(recipe, "epochs", value=1.0)
    if recipe.budget.max_usd is not None:
        yield _Change("no budget.max_usd", recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"max_usd": None})}))
    if recipe.compute.max_hours is not None:
        yield _Change("no compute.max_hours", _compute(recipe, "max_hours", None).recipe)


def _cheaper_methods(recipe: Recipe) -> Iterator[_Change]:
    method = recipe.method
    if isinstance(method, FullMethod):
        yield _method(recipe, LoraMethod(type="lora"))
        yield _method(recipe, QloraMethod(type="qlora"))
    elif not isinstance(method, QloraMethod):
        yield _quantised(recipe, method)
    elif method.quantization == "int8":
        change = method.model_copy(update={"quantization": "nf4"})
        yield _Change("method.quantization=nf4", recipe.model_copy(update={"method": change}))


def _quantised(recipe: Recipe, method: LoraMethod) -> _Change:
    """The same adapters on a quantised base, from which PiSSA and OLoRA cannot start."""
    kept = {**method.model_dump(), "type": "qlora"}
    if method.init not in ("pissa", "olora"):
        return _method(recipe, QloraMethod(**kept))
    change = _method(recipe, QloraMethod(**{**kept, "init": "default"}))
    return _Change(f"{change.words} and method.init=default", change.recipe)


def _method(recipe: Recipe, method: LoraMethod) -> _Change:
    return _Change(f"method.type={method.type}", recipe.model_copy(update={"method": method}))


def _shorter(recipe: Recipe) -> _Change:
    half = recipe.data.max_length // 2
    return _Change(f"data.max_length={half}", recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": half})}))


def _training(recipe: Recipe, key: str, *, value: Any) -> _Change:
    words = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return _Change(f"training.{key}={words}", recipe.model_copy(update={"training": recipe.training.model_copy(update={key: value})}))


def _compute(recipe: Recipe, key: str, value: Any) -> _Change:
    return _Change(f"compute.{key}={value}", recipe.model_copy(update={"compute": recipe.compute.model_copy(update={key: value})}))
