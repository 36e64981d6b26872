"""Everything about running one recipe on one offer that needs no memory reckoning: ways, their time and their price. Pure.

A way is a layout with its seconds and its price. ``Timing`` makes them, fastest first, and remembers times by
(GPU, wires, layout), because most offers share their GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudtune import cost
from cloudtune.models.shape import ModelShape
from cloudtune.offers import disks
from cloudtune.offers.offer import Offer
from cloudtune.planning import duration
from cloudtune.planning.calibrate import Calibration
from cloudtune.planning.duration import Machine, ModelNumbers, Seconds, Task
from cloudtune.planning.host import host_bytes
from cloudtune.planning.layout import layouts
from cloudtune.planning.plan import DataStats
from cloudtune.planning.reckoner import family_of
from cloudtune.planning.resolve import checkpoint_steps, disk_gib
from cloudtune.planning.risk import checkpoint_seconds, risk_usd
from cloudtune.planning.speeds import gpu_speed, wires
from cloudtune.planning.trained import checkpoint_bytes, result_bytes, trained_weights
from cloudtune.planning.work import Amount, amount_of_work, sequence_tokens
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.locations import is_builtin
from cloudtune.recipe.spec import QloraMethod, Recipe
from cloudtune.units import gib

WORTH_A_BIGGER_BATCH = 0.99  # a bigger micro batch that takes more than this part of the smaller one's time is not tried


@dataclass(frozen=True, slots=True)
class Way:
    """One layout on one offer: ``training`` seconds alone, ``seconds`` with start-up and upload; prices in USD."""

    layout: Layout
    training: Seconds
    seconds: Seconds
    usd: float
    risk_usd: float

    @property
    def hours(self) -> float:
        return self.seconds.expected / 3600


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per hour and machine: the range of a price, three times the same number for a fixed one."""

    low: float
    expected: float
    high: float


@dataclass(slots=True)
class Timing:
    """Times and prices of one recipe on any offer."""

    recipe: Recipe
    shape: ModelShape
    stats: DataStats
    calibration: Calibration = field(default_factory=Calibration)
    amount: Amount = field(init=False)
    _model: ModelNumbers = field(init=False)
    _known: dict[tuple[str, str, float | None, Layout], Seconds] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.amount = amount_of_work(self.recipe, self.stats)
        self._model = duration.model_numbers(self.shape)

    def ways(self, offer: Offer, nodes: int) -> tuple[Way, ...] | str:
        """All ways on ``nodes`` of these machines, the cheapest first (the fastest first for that objective), or why none."""
        found = layouts(self.recipe, nodes=nodes, gpus=offer.gpu_count)
        if isinstance(found, str):
            return found
        roomy = [layout for layout in found if offer.gpu_count == 0 or self._host(layout) <= offer.host_memory_bytes]
        if not roomy:
            needed = min(self._host(layout) for layout in found)
            return f"needs {gib(needed)} of host memory to load the model, has {gib(offer.host_memory_bytes)}"
        ways = [self.way(offer, layout) for layout in self._worthwhile(offer, roomy)]
        return tuple(sorted(ways, key=lambda way: (*self.rank(way), way.layout.micro_batch_size, way.layout.gradient_checkpointing)))

    def rank(self, way: Way) -> tuple[float, float]:
        """What is minimised: the risk-weighted price, or the time."""
        if self.recipe.budget.objective == "cheapest":
            return way.risk_usd, way.seconds.expected
        return way.seconds.expected, way.risk_usd

    def _host(self, layout: Layout) -> int:
        return host_bytes(self.recipe, self.shape, layout)

    def _worthwhile(self, offer: Offer, found: Sequence[Layout]) -> list[Layout]:
        """Without the bigger micro batches that bring less than a hundredth: they cost memory for nothing."""
        kept: list[Layout] = []
        last: tuple[Layout, float] | None = None
        for layout in sorted(found, key=lambda item: (item.sharding, item.cpu_offload, item.gradient_checkpointing, item.micro_batch_size)):
            seconds = self.training(offer, layout).expected
            if last is None or family_of(layout) != family_of(last[0]) or seconds <= last[1] * WORTH_A_BIGGER_BATCH:
                kept.append(layout)
                last = (layout, seconds)
        return kept

    def training(self, offer: Offer, layout: Layout) -> Seconds:
        """All steps and evaluations."""
        key = (offer.gpu.name if offer.gpu_count else "cpu", offer.interconnect, offer.network_gbps, layout)
        if key not in self._known:
            self._known[key] = self._training(offer, layout)
        return self._known[key]

    def uncorrected_seconds(self, offer: Offer, way: Way) -> float:
        """Expected training time without what the user's own runs say."""
        gpu = gpu_speed(offer.gpu.name).name if offer.gpu_count else "cpu"
        return way.training.expected / self.calibration.factor(gpu, self.recipe.method.type)

    def _training(self, offer: Offer, layout: Layout) -> Seconds:
        length = sequence_tokens(self.recipe, self.stats, layout.micro_batch_size)
        task = self._task(length)
        evaluated = self.amount.eval_rows * self.amount.evaluations * length
        if layout.gpus == 0:
            tokens = self.amount.steps * self.recipe.training.batch_size * length
            return duration.cpu_seconds(
                self._model, task, tokens, checkpointing=layout.gradient_checkpointing, forward_tokens=evaluated
            ).times(self.calibration.factor("cpu", task.method))
        machine = Machine(gpu_speed(offer.gpu.name), wires(offer.interconnect, offer.network_gbps))
        step = duration.step_seconds(self._model, task, layout, layout.micro_batch_size * length, machine)
        forward = duration.forward_flops_per_token(self._model, length) * evaluated / layout.data_parallel
        total = step * self.amount.steps + forward / (machine.gpu.flops * duration.FITTED.products * 0.5)
        factor, spread = self.calibration.of(machine.gpu, task.method)
        return Seconds(total * factor, total * factor / spread, total * factor * spread)

    def _task(self, length: int) -> Task:
        method = self.recipe.method
        quantised = duration.INT8_BYTES if isinstance(method, QloraMethod) and method.quantization == "int8" else duration.NF4_BYTES
        return Task(method.type, length, trained_weights(self.recipe, self.shape), quantised)

    def way(self, offer: Offer, layout: Layout) -> Way:
        """Time and price of one layout on one offer."""
        training = self.training(offer, layout)
        start = self._start(offer)
        total = start.plus(training).plus(duration.finish_seconds(offer.provider, result_bytes(self.recipe, self.shape)))
        hours = total.expected / 3600
        usd = cost.run_usd(hours, self.rates(offer).expected, layout.nodes)
        interval = min(self.checkpoint_interval(offer.purchase, training.expected), training.expected)
        risk = risk_usd(usd, hours, purchase=offer.purchase, interval_seconds=interval, restart_seconds=start.expected)
        return Way(layout, training, total, usd, risk)

    def disk_usd_per_hour(self, offer: Offer) -> float:
        """USD per hour of one machine's boot disk."""
        return disks.usd_per_hour(offer.provider, offer.disk_usd_per_gib_hour, disk_gib(self.recipe, self.shape))

    def rates(self, offer: Offer) -> Rates:
        """USD per hour and machine with its boot disk; an unknown price counts as nothing (it is only taken when named)."""
        disk = self.disk_usd_per_hour(offer)
        expected = offer.usd_per_hour or 0.0
        ends = offer.usd_per_hour_low or expected, expected, offer.usd_per_hour_high or expected
        return Rates(*(round(value + disk, 6) if offer.usd_per_hour else 0.0 for value in ends))

    def _start(self, offer: Offer) -> Seconds:
        return duration.startup_seconds(
            offer.provider,
            2.0 * self.shape.parameters,
            quantised=isinstance(self.recipe.method, QloraMethod),
            builtin=is_builtin(self.recipe.model.base),
        )

    def checkpoint_interval(self, purchase: str, training_seconds: float) -> float:
        """Seconds between checkpoints."""
        steps = checkpoint_steps(self.recipe, self.amount.steps, training_seconds, self.wanted_interval(purchase))
        return training_seconds * min(1.0, steps / self.amount.steps)

    def wanted_interval(self, purchase: str) -> float:
        """The interval that auto aims at, in seconds."""
        return checkpoint_seconds(purchase, checkpoint_bytes(self.recipe, self.shape))


def without_checkpoints(timing: Timing, way: Way) -> bool:
    """Whether the run would end before its first checkpoint because the recipe's own save_steps are too many."""
    wanted = timing.recipe.training.save_steps
    return wanted != "auto" and wanted >= timing.amount.steps and timing.amount.steps > 1 and way.training.expected > 0
