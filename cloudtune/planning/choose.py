"""Offers → options and rejections, best first. Pure: the same input gives the same answer, byte for byte.

All ways of all offers are walked from the best price (or time) upwards, so the first way whose memory fits is the
choice, and nothing dearer had to be reckoned to know it. The walk goes on for the runners-up with a bounded number
of memory replays; after that a runner-up gets its best layout that is certain to fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.memory.measured import NOTHING, Measurements
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import Offer
from cloudtune.planning.calibrate import Calibration
from cloudtune.planning.layout import layouts
from cloudtune.planning.limits import beyond_limits, unfit_by_nature
from cloudtune.planning.plan import Candidate, DataStats, Rejected
from cloudtune.planning.reckoner import Attempt, Reckoner, Verdict, device_of, learned_reckoner
from cloudtune.planning.resolve import before_layout
from cloudtune.planning.ways import Timing, Way
from cloudtune.planning.work import Amount
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import gib

REPLAYS = 3  # for the runners-up, after those that led to the choice; undecided offers may take one more each
MORE_NODES = (2, 4, 8)
WHOLE_MACHINE_GPUS = 8  # only whole machines are joined: smaller ones have neither the network nor a price advantage


@dataclass(frozen=True, slots=True)
class Option:
    """One offer that will do, and the best way on it that fits."""

    offer: Offer
    way: Way

    @property
    def layout(self) -> Layout:
        return self.way.layout

    def candidate(self) -> Candidate:
        return Candidate(
            provider=self.offer.provider,
            region=self.offer.region,
            instance=self.offer.instance,
            purchase=self.offer.purchase,
            hours=self.way.hours,
            usd=self.way.usd,
            risk_usd=self.way.risk_usd,
            layout=self.way.layout,
        )


@dataclass(frozen=True, slots=True)
class Weighing:
    """All offers weighed: ``options`` best first, ``rejected`` in the order of the offers."""

    options: tuple[Option, ...]
    rejected: tuple[Rejected, ...]
    amount: Amount
    timing: Timing
    reckoner: Reckoner

    def memory(self, option: Option) -> Estimate:
        """The full reckoning of an option."""
        return self.reckoner.estimate(device_of(option.offer), option.layout)


Beyond = tuple[Way, str]


@dataclass(slots=True)
class _Contest:
    """One offer on its way through the queue: the ways still to be looked at, and those ``beyond`` a limit, each with its reason."""

    offer: Offer
    device: Device
    more_nodes: list[int]
    ways: list[Way] = field(default_factory=list)
    unsure: list[Way] = field(default_factory=list)
    tried: list[Layout] = field(default_factory=list)
    beyond: list[Beyond] = field(default_factory=list)


def _fullness(layout: Layout) -> tuple[bool, bool, bool, int]:
    """Orders layouts from lean to full where nothing else is known of them."""
    return not layout.cpu_offload, layout.sharding != "fsdp", not layout.gradient_checkpointing, layout.micro_batch_size


@dataclass(frozen=True, slots=True)
class Manner:
    """How to weigh. ``named_provider``: somebody asked for this provider, so a slow CPU is no reason to refuse.

    ``first_only``: stop as soon as the best offer is known. ``ceiling_usd``: with the cheapest wanted, give up where even the
    price with risk of what is left is above it. ``calibration`` and ``measured``: what the user's own
    runs say about speed and memory.
    """

    named_provider: bool = False
    first_only: bool = False
    calibration: Calibration = field(default_factory=Calibration)
    measured: Measurements = NOTHING
    ceiling_usd: float | None = None


@dataclass(slots=True)
class _Walk:
    """The state of one weighing."""

    timing: Timing
    reckoner: Reckoner
    manner: Manner
    queue: list[tuple[tuple[float, float], int, int, _Contest]] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    rejected: dict[int, Rejected] = field(default_factory=dict)
    spent_before_choice: int | None = None

    @property
    def may_replay(self) -> bool:
        """Freely until the choice is known, then only ``REPLAYS`` more."""
        return self.spent_before_choice is None or self.reckoner.replays - self.spent_before_choice < REPLAYS

    def enter(self, index: int, offer: Offer) -> None:
        """Put an offer into the queue, or reject it for a reason that needs no memory reckoning."""
        if (reason := unfit_by_nature(self.timing.recipe, offer)) is not None:
            self.rejected[index] = rejected(offer, reason)
            return
        named = self.timing.recipe.compute.nodes
        nodes = 1 if named == "auto" else named
        allowed = self._allowed(offer, nodes)
        if isinstance(allowed, Rejected):
            self.rejected[index] = allowed
            return
        more = list(MORE_NODES) if named == "auto" and offer.gpu_count >= WHOLE_MACHINE_GPUS else []
        within, beyond = allowed
        self._push(index, _Contest(offer, device_of(offer), more, within, beyond=beyond))

    def _allowed(self, offer: Offer, nodes: int) -> tuple[list[Way], list[Beyond]] | Rejected:
        """The ways within budget, hours and patience, and the others; or the reason why none is within."""
        ways = self.timing.ways(offer, nodes)
        if isinstance(ways, str):
            return rejected(offer, ways)
        allowed = [(way, beyond_limits(self.timing, offer, way, named_provider=self.manner.named_provider)) for way in ways]
        within = [way for way, reason in allowed if reason is None]
        beyond = [(way, reason) for way, reason in allowed if reason is not None]
        return (within, beyond) if within else _beyond_limit(offer, *beyond[0])

    def _push(self, index: int, contest: _Contest) -> None:
        heapq.heappush(self.queue, (self.timing.rank(contest.ways[0]), index, len(contest.ways), contest))

    def run(self) -> None:
        """Walk until the queue is empty, or the choice is known and nothing else was asked."""
        while self.queue and not (self.manner.first_only and self.options) and not self._too_dear():
            _, index, _, contest = heapq.heappop(self.queue)
            way = contest.ways.pop(0)
            verdict = self._verdict(contest, way, may_replay=self.may_replay)
            contest.tried.append(way.layout)
            if verdict == "fits":
                self._accept(contest, way)
            else:
                if verdict == "unsure":
                    contest.unsure.append(way)
                self._go_on(index, contest)

    def _too_dear(self) -> bool:
        """Whether nothing in the queue is below the ceiling: it is ordered by price, and a price with risk is the higher one."""
        ceiling = self.manner.ceiling_usd
        return ceiling is not None and self.timing.recipe.budget.objective == "cheapest" and self.queue[0][0][0] > ceiling

    def _accept(self, contest: _Contest, way: Way) -> None:
        self.options.append(Option(contest.offer, way))
        if self.spent_before_choice is None:
            self.spent_before_choice = self.reckoner.replays

    def _go_on(self, index: int, contest: _Contest) -> None:
        """The offer's next way, more machines together, or its rejection."""
        while not contest.ways and contest.more_nodes and not contest.unsure:
            allowed = self._allowed(contest.offer, contest.more_nodes.pop(0))
            if not isinstance(allowed, Rejected):
                contest.ways = allowed[0]
                contest.beyond += allowed[1]
        if contest.ways:
            self._push(index, contest)
        elif (certain := self._leanest_unsure(contest)) is not None:
            self._accept(contest, certain)
        else:
            self.rejected[index] = self._limited(contest) or self._too_big(contest)

    def _leanest_unsure(self, contest: _Contest) -> Way | None:
        """Of the ways left undecided the one that needs least, if it fits: one replay decides the offer."""
        if not contest.unsure:
            return None
        leanest = min(contest.unsure, key=lambda way: (self.reckoner.bounds(contest.device, way.layout)[1], _fullness(way.layout)))
        return leanest if self._verdict(contest, leanest, may_replay=True) == "fits" else None

    def _verdict(self, contest: _Contest, way: Way, *, may_replay: bool) -> Verdict:
        confirm = self.spent_before_choice is None
        return self.reckoner.verdict(contest.device, way.layout, may_replay=may_replay, confirm=confirm)

    def _limited(self, contest: _Contest) -> Rejected | None:
        """Another way would fit the memory, and a limit forbids it: then the limit is the reason. No replay is spent on that."""
        for way, reason in contest.beyond:
            if self.reckoner.verdict(contest.device, way.layout, may_replay=False, confirm=False) == "fits":
                return _beyond_limit(contest.offer, way, reason)
        return None

    def _too_big(self, contest: _Contest) -> Rejected:
        """Memory is the reason: say how much the leanest way needs, exactly where it was replayed."""
        needs = min(self.reckoner.bounds(contest.device, layout)[0] for layout in contest.tried)
        known = [layout for layout in contest.tried if self.reckoner.bounds(contest.device, layout) == (needs, needs)]
        has = contest.device.total_bytes
        reason = f"needs {'' if known else 'at least '}{gib(needs)}, has {gib(has)} usable"
        return rejected(contest.offer, reason, needs, has)


def weigh(
    recipe: Recipe,
    shape: ModelShape,
    stats: DataStats,
    offers: Iterable[Offer],
    manner: Manner | None = None,
    *,
    reckoner: Reckoner | None = None,
) -> Weighing:
    """Weigh every offer."""
    ready = before_layout(recipe, shape)
    manner = manner or Manner()
    timing = Timing(ready, shape, stats, manner.calibration)
    walk = _Walk(timing, reckoner or learned_reckoner(ready, shape, manner.measured), manner)
    for index, offer in enumerate(offers):
        walk.enter(index, offer)
    walk.run()
    options = tuple(sorted(walk.options, key=lambda option: order(timing, option)))
    turned_down = tuple(walk.rejected[index] for index in sorted(walk.rejected))
    return Weighing(options, turned_down, timing.amount, timing, walk.reckoner)


def leanest_attempt(weighing: Weighing, offers: Iterable[Offer]) -> Attempt | None:
    """The way that needs least, reckoned although nothing fits: on the offer with most GPU memory that has a legal layout."""
    for offer in sorted(offers, key=lambda item: (-item.gpu.memory_bytes * item.gpu_count, item.instance)):
        found = layouts(weighing.timing.recipe, nodes=1, gpus=offer.gpu_count)
        if not isinstance(found, str):
            device, layout = device_of(offer), min(found, key=_fullness)
            return Attempt(device, layout, weighing.reckoner.estimate(device, layout))
    return None


def order(timing: Timing, option: Option) -> tuple[float, float, str, str, str, str, str]:
    """The order of options, the best first; equal ones by name, so that it is always the same one."""
    offer = option.offer
    return (*timing.rank(option.way), offer.provider, offer.instance, offer.accelerator, offer.region, offer.purchase)


def rejected(offer: Offer, reason: str, needs: int | None = None, has: int | None = None) -> Rejected:
    """An offer and the sentence that rules it out."""
    return Rejected(
        provider=offer.provider,
        region=offer.region,
        instance=offer.instance,
        purchase=offer.purchase,
        reason=reason,
        needs_bytes=needs,
        has_bytes=has,
    )


def _beyond_limit(offer: Offer, way: Way, reason: str) -> Rejected:
    return rejected(offer, reason).model_copy(update={"usd": way.usd, "hours": way.hours})


def summary_of(turned_down: Sequence[Rejected], most: int = 6) -> str:
    """The rejections in a few lines, those that came closest first; machines with the same reason share a line."""
    groups: dict[str, list[Rejected]] = {}
    for item in sorted(turned_down, key=_distance):
        groups.setdefault(item.reason, []).append(item)
    lines = [f"{_names(items)}: {reason}" for reason, items in list(groups.items())[:most]]
    hidden = sum(len(items) for items in list(groups.values())[most:])
    return "\n".join([*lines, f"and {hidden} more"] if hidden else lines)


def _distance(item: Rejected) -> tuple[int, float]:
    """Limits of the recipe first, then memory by what is missing, then what no memory would help."""
    if item.needs_bytes is not None and item.has_bytes is not None:
        return 1, item.needs_bytes - item.has_bytes
    return (0, item.usd) if item.usd is not None else (2, 0.0)


def _names(items: Sequence[Rejected]) -> str:
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return f"{items[0].provider} {items[0].instance} ({items[0].purchase}){more}"
