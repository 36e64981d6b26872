"""Questions about a model and a card alone: all methods side by side, the longest sequence, the biggest micro batch, a trace.

Nothing here weighs machines against each other; prices are only shown beside the cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloudtune.errors import UsageError
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.offers.offer import unsupported
from cloudtune.planning.reckoner import device_of
from cloudtune.planning.resolve import before_layout
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_full, is_qlora
from cloudtune.recipe.sketch import method, sketch

if TYPE_CHECKING:
    from cloudtune.models.shape import ModelShape
    from cloudtune.offers.offer import Gpu, Offer
    from cloudtune.planning.decide import Question
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.recipe.method import Method
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session

MANY_GPUS = 8
UNKNOWN_CARD = Device.cuda("H100-80GB", total_bytes=79 << 30)  # where no machine is known: the kernels of a current card
WORDS = {"full": "full", "lora": "LoRA", "int8": "8-bit", "nf4": "QLoRA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU, ``count`` of them in a machine, at the lowest known price of such a machine (USD per hour)."""

    gpu: str
    gpu_bytes: int
    count: int = 1
    instance: str = ""
    usd_per_hour: float | None = None
    price_date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSize:
    """One method: its peak on one GPU, and the smallest card that holds it.

    Where no card of a machine with one GPU does, ``card.count`` is 8 and ``sharded`` the peak of each of them with FSDP;
    where they do not either, ``card`` is None.
    """

    name: str
    method: str
    memory: Estimate
    layout: Layout
    device: str
    card: Card | None
    sharded: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """All methods of one model side by side. ``memory``, ``layout`` and ``method`` repeat the leanest of ``methods``."""

    model: str
    parameters: int
    max_length: int
    fused_loss: bool
    method: str
    memory: Estimate
    layout: Layout
    methods: tuple[MethodSize, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLimits:
    """What one GPU of a kind holds. ``max_length`` at ``micro_batch_size`` 1 of ``layout``, ``micro_batch`` at ``length``.

    None: not asked; 0: not even one. ``bound_by``: what ends the length, memory or the positions that the model has.
    """

    gpu: str
    gpu_bytes: int
    layout: Layout
    length: int
    max_length: int | None = None
    bound_by: Literal["memory", "positions", ""] = ""
    micro_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedSize:
    """The peak from a trace of the model's own code, on its smallest card; ``template`` is the replay of the same job, if there is one."""

    model: str
    method: str
    memory: Estimate
    layout: Layout
    device: str
    card: Card | None
    template: Estimate | None


def lean_layout(recipe: Recipe) -> Layout:
    """One GPU: the recipe's micro batch or 1, checkpointing unless the recipe refuses it, the rest by accumulation."""
    wanted = recipe.training
    micro = 1 if wanted.micro_batch_size == "auto" else wanted.micro_batch_size
    return Layout(
        gpus=1,
        micro_batch_size=micro,
        gradient_accumulation_steps=max(1, wanted.batch_size // micro),
        gradient_checkpointing=wanted.gradient_checkpointing is not False,
    )


def cards(recipe: Recipe, offers: Iterable[Offer], *, count: int = 1) -> tuple[tuple[Card, Device], ...]:
    """The kinds of GPU that can run the recipe at all, smallest first, each with its cheapest machine of ``count`` GPUs."""
    found: dict[str, tuple[Card, Device]] = {}
    for offer in offers:
        if offer.gpu_count != count or offer.blocked or unusable(recipe, offer.gpu) is not None:
            continue
        card = Card(
            gpu=offer.gpu.name,
            gpu_bytes=offer.gpu.memory_bytes,
            count=count,
            instance=offer.instance,
            usd_per_hour=offer.usd_per_hour,
            price_date=offer.price_date,
        )
        known = found.get(offer.gpu.name)
        if known is None or _price(card) < _price(known[0]):
            found[offer.gpu.name] = card, device_of(offer)
    return tuple(sorted(found.values(), key=lambda item: (item[0].gpu_bytes, _price(item[0]), item[0].gpu)))


def unusable(recipe: Recipe, gpu: Gpu) -> str | None:
    """Why a kind of GPU cannot run the recipe at all, whatever its memory; None when it can."""
    quantization = recipe.method.quantization if is_qlora(recipe.method) else ""
    return unsupported(gpu, recipe.model.dtype, recipe.model.attention, quantization)


def every_device(question: Question) -> tuple[Device, ...]:
    """One of each kind of GPU that can run the recipe, whatever their number in a machine, smallest first. Raises UsageError for none."""
    require_usable(question.recipe, question.offers)
    counts = sorted({offer.gpu_count for offer in question.offers if offer.gpu_count})
    found = {device.name: device for count in counts for _, device in cards(question.recipe, question.offers, count=count)}
    if not found:
        raise UsageError("no machine here has a GPU that can be used", hint="name another provider")
    return tuple(sorted(found.values(), key=lambda device: (device.total_bytes, device.name)))


def require_usable(recipe: Recipe, offers: Iterable[Offer]) -> None:
    """Raises UsageError when there are GPUs and none of them can run the recipe, with what would help."""
    reasons = [unusable(recipe, gpu) for gpu in {offer.gpu.name: offer.gpu for offer in offers if offer.gpu_count}.values()]
    if reasons and None not in reasons:
        said, _, remedy = str(reasons[0]).partition("; ")
        key, _, value = remedy.removesuffix(" would allow it").partition(": ")
        raise UsageError(said, code="gpu-unusable", hint=f"change it in the recipe, or add: --set {key}={value}")


def _price(card: Card) -> float:
    return card.usd_per_hour if card.usd_per_hour is not None else float("inf")


@dataclass(frozen=True, slots=True)
class Bare:
    """A question about nothing but a model: the defaults of a recipe, the model's shape, the machines that there are."""

    recipe: Recipe
    shape: ModelShape
    offers: tuple[Offer, ...]


def bare_sizes(base: str, *, provider: str | None, gpu: str | None, session: Session) -> ModelSizes:
    """``sizes`` of a model without a recipe. Raises SourceError when its config is out of reach, UsageError for an unknown GPU."""
    from cloudtune.verbs.market import offers_for, shape_of, with_gpu

    recipe = sketch(base)
    shape = shape_of(recipe, Path.cwd(), session)
    return sizes(Bare(recipe, shape, with_gpu(offers_for(recipe, provider, session), gpu)))


def sizes(question: Question | Bare) -> ModelSizes:
    """Full training, LoRA, 8-bit and QLoRA of one model at the recipe's length, each with the smallest card that holds it."""
    require_usable(question.recipe, question.offers)
    recipe = before_layout(question.recipe, question.shape)
    found = tuple(_size(recipe.model_copy(update={"method": method}), name, question) for name, method in _methods(recipe))
    leanest = min(found, key=lambda size: size.memory.peak_bytes)
    return ModelSizes(
        model=recipe.model.base,
        parameters=question.shape.parameters,
        max_length=recipe.data.max_length,
        fused_loss=recipe.training.fused_loss is True,
        method=leanest.method,
        memory=leanest.memory,
        layout=leanest.layout,
        methods=found,
    )


def _methods(recipe: Recipe) -> Iterator[tuple[str, Method]]:
    given = recipe.method
    kept = {} if is_full(given) else {"r": given.r, "target_modules": given.target_modules}
    yield WORDS["full"], method("full")
    yield WORDS["lora"], method("lora", **kept)
    yield WORDS["int8"], method("qlora", quantization="int8", **kept)
    yield WORDS["nf4"], method("qlora", **kept)


def _size(recipe: Recipe, name: str, question: Question | Bare) -> MethodSize:
    """On one GPU, and on which; else how many of which."""
    from cloudtune.memory.reckon import estimate_memory

    shape, layout = question.shape, lean_layout(recipe)
    one = cards(recipe, question.offers)
    found = _first_that_fits(recipe, shape, [(card, device, layout) for card, device in one])
    if found is not None:
        card, device, memory = found
        return MethodSize(name=name, method=recipe.method.type, memory=memory, layout=layout, device=device.name, card=card)
    many = cards(recipe, question.offers, count=MANY_GPUS)
    spread = _first_that_fits(recipe, shape, [(card, device, way) for card, device in many for way in _sharded(recipe)])
    device = max((device for _, device in (*one, *many)), key=lambda item: item.total_bytes, default=UNKNOWN_CARD)
    return MethodSize(
        name=name,
        method=recipe.method.type,
        memory=estimate_memory(recipe, shape, layout, device),
        layout=layout,
        device=device.name,
        card=spread[0] if spread else None,
        sharded=spread[2] if spread else None,
    )


def _first_that_fits(
    recipe: Recipe, shape: ModelShape, ways: Iterable[tuple[Card, Device, Layout]]
) -> tuple[Card, Device, Estimate] | None:
    from cloudtune.memory.bounds import floor_bytes
    from cloudtune.memory.reckon import at_least_bytes, estimate_memory, job_of
    from cloudtune.planning.reckoner import fits
    from cloudtune.planning.rough import rough_bytes

    for card, device, layout in ways:
        if floor_bytes(job_of(recipe, shape, layout, device)) > device.usable_bytes:
            continue  # what lies there all the time is too much: no tape is needed to know
        doubtful = rough_bytes(recipe, shape, layout, device) > 0.8 * device.total_bytes  # else a look would cost more than it saves
        if doubtful and at_least_bytes(recipe, shape, layout, device) > device.total_bytes:
            continue
        memory = estimate_memory(recipe, shape, layout, device)
        if fits(memory, device):
            return card, device, memory
    return None


def _sharded(recipe: Recipe) -> Iterator[Layout]:
    """The lean layout over the GPUs of one machine, where method and optimizer allow shards."""
    from cloudtune.recipe.sharded import why_not_sharded

    if why_not_sharded(recipe) is None:
        steps = max(1, recipe.training.batch_size // MANY_GPUS)
        yield replace(lean_layout(recipe), gpus=MANY_GPUS, sharding="fsdp", gradient_accumulation_steps=steps)


def limits(question: Question, devices: Iterable[Device], *, longest: bool, largest_batch: bool) -> tuple[CardLimits, ...]:
    """The longest sequence and the biggest micro batch for one GPU of each kind, exact: one more does not fit."""
    recipe = before_layout(question.recipe, question.shape)
    return tuple(_limits(recipe, question.shape, device, longest=longest, largest_batch=largest_batch) for device in devices)


def _limits(recipe: Recipe, shape: ModelShape, device: Device, *, longest: bool, largest_batch: bool) -> CardLimits:
    from cloudtune.memory.verdict import biggest_micro_batch, longest_sequence

    layout = lean_layout(recipe)
    length = longest_sequence(recipe, shape, layout, device) if longest else None
    return CardLimits(
        gpu=device.name,
        gpu_bytes=device.total_bytes,
        layout=layout,
        length=recipe.data.max_length,
        max_length=length,
        bound_by="" if length is None else "positions" if length == shape.max_positions else "memory",
        micro_batch=biggest_micro_batch(recipe, shape, layout, device) if largest_batch else None,
    )


def traced(loaded: LoadedRecipe, *, provider: str | None, session: Session, gpu: str | None = None) -> TracedSize:
    """The model's own code traced for one GPU, also of architectures that have no template.

    Raises UsageError when the training libraries are missing or the model cannot be traced, SourceError without a config.
    """
    from cloudtune.memory.exact import estimate_of, traced_tape
    from cloudtune.planning.reckoner import fits
    from cloudtune.verbs.market import config_of, named, offers_for

    recipe = loaded.recipe
    config, source = config_of(recipe, loaded.dir, session)
    known = cards(recipe, offers_for(recipe, provider, session))
    wanted = named(gpu or "", [card.gpu for card, _ in known])
    kinds = [(card, device) for card, device in known if card.gpu in wanted]
    layout = lean_layout(recipe)
    tape = traced_tape(config, recipe, layout, kinds[0][1] if kinds else UNKNOWN_CARD)
    chosen = next(((card, device) for card, device in kinds if fits(estimate_of(tape, device), device)), None)
    device = chosen[1] if chosen else kinds[-1][1] if kinds else UNKNOWN_CARD
    return TracedSize(
        model=recipe.model.base,
        method=recipe.method.type,
        memory=estimate_of(tape, device),
        layout=layout,
        device=device.name,
        card=chosen[0] if chosen else None,
        template=_by_template(recipe, config, source, layout, device),
    )


def _by_template(recipe: Recipe, config: object, source: str, layout: Layout, device: Device) -> Estimate | None:
    """The replay of the same job with the same full loss; None for architectures without a template."""
    from cloudtune.errors import CloudtuneError
    from cloudtune.memory.reckon import estimate_memory
    from cloudtune.models.families import shape_of

    try:
        shape = shape_of(config, source=source)  # type: ignore[arg-type]
        ready = before_layout(recipe, shape)
        full = ready.model_copy(update={"training": ready.training.model_copy(update={"fused_loss": False})})
        return estimate_memory(full, shape, layout, device)
    except CloudtuneError:
        return None
