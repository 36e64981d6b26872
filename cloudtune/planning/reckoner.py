"""Memory verdicts with as little reckoning as possible: the closed form first, then a look, then a replay. Pure.

The closed form costs nothing and is off by up to half. A look reckons the live memory exactly, without the allocator, for
a third of a replay's time; what the allocator adds is below a fifth. Either calibrates the closed form for its whole family
(the same layout with other micro batches, and on other cards), where it is then off by a tenth. A layout whose range
lies above the card is out, one whose range lies below it is in, and only what straddles the card's size is looked at, and
replayed when that is not enough. Both are remembered by (GPU, layout). The choice itself is always confirmed by a replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.memory.measured import Measurements
from cloudtune.memory.reckon import at_least_bytes, estimate_memory, kernel_class
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import Offer
from cloudtune.planning.rough import rough_bytes
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_full
from cloudtune.units import GIB

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

Verdict = Literal["fits", "no", "unsure"]
Bounds = tuple[int, int]
UNCALIBRATED = (1.2, 1.7)  # the closed form ÷ and x these hold every replay of the grid in tests/unit/test_plan_bounds.py
CALIBRATED = {False: 1.15, True: 1.25}  # whole replicas, shards: the same after one replay of the family
LOOKED = 1.2  # the allocator adds at most this to live memory (tests/unit/test_plan_bounds.py; 1.17 is the most that was seen)
LOOKED_LARGE = (1.04, 5 * GIB // 4)  # where only adapters are trained: this factor and so many bytes, if that is less
SAME_MICRO_BATCH = 1.08  # whole replicas that differ only in card or number of GPUs


def family_of(layout: Layout) -> Layout:
    """What is left when micro batch and accumulation are taken out: memory grows with the micro batch inside a family."""
    return replace(layout, micro_batch_size=1, gradient_accumulation_steps=1)


def device_of(offer: Offer) -> Device:
    """The memory device of an offer: one of its GPUs, or the host when it has none."""
    if offer.gpu_count == 0:
        return Device.cpu(total_bytes=offer.host_memory_bytes)
    return Device.cuda(offer.gpu.name, total_bytes=offer.gpu.memory_bytes, compute_capability=offer.gpu.compute_capability)


def fits(estimate: Estimate, device: Device) -> bool:
    """Whether a replay says that the layout runs on the device, margins included."""
    return estimate.high_bytes <= device.total_bytes


def most_after_look(recipe: Recipe, seen: int) -> int:
    """What a replay can say at most where a look has said ``seen``, in bytes with margins."""
    most = int(seen * LOOKED)
    factor, more = LOOKED_LARGE
    return most if is_full(recipe.method) else min(most, int(seen * factor) + more)


Kin = tuple[bool, bool, bool]


def _kin_of(layout: Layout) -> Kin:
    """Layouts that one replay calibrates: sharded or whole, checkpointing or not, offloaded or not, on any number of GPUs."""
    return layout.sharding == "fsdp", layout.gradient_checkpointing, layout.cpu_offload


@dataclass(frozen=True, slots=True)
class Attempt:
    """One full reckoning and what it was for."""

    device: Device
    layout: Layout
    estimate: Estimate


@dataclass(slots=True)
class Reckoner:
    """Memory of one recipe on any device."""

    recipe: Recipe
    shape: ModelShape
    replay: Callable[[Recipe, ModelShape, Layout, Device], Estimate] = estimate_memory
    rough: Callable[[Recipe, ModelShape, Layout, Device], int] | None = rough_bytes
    look: Callable[[Recipe, ModelShape, Layout, Device], int] | None = at_least_bytes
    _replayed: set[tuple[tuple[int, int], Layout]] = field(default_factory=set)
    _known: dict[tuple[Device, Layout], Estimate] = field(default_factory=dict)
    _looked: dict[tuple[Device, Layout], int] = field(default_factory=dict)
    _rough: dict[tuple[Device, Layout], int] = field(default_factory=dict)
    _anchors: dict[Kin, list[tuple[Device, Layout]]] = field(default_factory=dict)

    @property
    def replays(self) -> int:
        """Reckonings made so far, looks included; GPUs that run the same kernels share one."""
        return len(self._replayed)

    def estimate(self, device: Device, layout: Layout) -> Estimate:
        """The full reckoning."""
        key = (device, layout)
        if key not in self._known:
            self._replayed.add((kernel_class(device.compute_capability), layout))
            self._known[key] = self.replay(self.recipe, self.shape, layout, device)
            self._anchor(key)
        return self._known[key]

    def _glance(self, key: tuple[Device, Layout]) -> None:
        """Look at a layout unless that or more was done."""
        if self.look is not None and key not in self._looked and key not in self._known:
            device, layout = key
            self._replayed.add((kernel_class(device.compute_capability), layout))
            self._looked[key] = self.look(self.recipe, self.shape, layout, device)
            self._anchor(key)

    def _anchor(self, key: tuple[Device, Layout]) -> None:
        kin = self._anchors.setdefault(_kin_of(key[1]), [])
        if key not in kin:
            kin.append(key)

    def bounds(self, device: Device, layout: Layout) -> Bounds:
        """(at least, at most) in bytes, margins included; both equal the verdict's number after a replay."""
        key = (device, layout)
        if key in self._known:
            high = self._known[key].high_bytes
            return high, high
        if key in self._looked:
            return self._looked[key], most_after_look(self.recipe, self._looked[key])
        if self.rough is None:
            return 0, 1 << 62
        guess = self._rough_of(key)
        anchors = self._anchors.get(_kin_of(layout))
        if not anchors:
            return int(guess / UNCALIBRATED[0]), int(guess * UNCALIBRATED[1])
        anchor = min(anchors, key=lambda item: (abs(item[1].micro_batch_size - layout.micro_batch_size), item[0] != device))
        guess = round(guess * self._middle(anchor) / self._rough_of(anchor))
        sharded = layout.sharding == "fsdp"
        same = anchor[1].micro_batch_size == layout.micro_batch_size and not sharded
        width = SAME_MICRO_BATCH if same else CALIBRATED[sharded]
        return int(guess / width), int(guess * width)

    def _middle(self, key: tuple[Device, Layout]) -> int:
        """What is known of an anchor: the replay, or the live memory and the middle of what the allocator may add."""
        low, high = self.bounds(*key)
        return (low + high) // 2

    def _rough_of(self, key: tuple[Device, Layout]) -> int:
        if key not in self._rough and self.rough is not None:
            device, layout = key
            self._rough[key] = max(1, self.rough(self.recipe, self.shape, layout, device))
        return self._rough[key]

    def verdict(self, device: Device, layout: Layout, *, may_replay: bool, confirm: bool) -> Verdict:
        """What is known, or becomes known with a replay where that is allowed. ``confirm``: only a replay may say that it fits."""
        low, high = self.bounds(device, layout)
        if low > device.total_bytes:
            return "no"
        if high <= device.total_bytes and not confirm:
            return "fits"
        key = (device, layout)
        if not may_replay and key not in self._known:
            return "unsure"
        self._glance(key)
        low, high = self.bounds(device, layout)
        if low > device.total_bytes or (high <= device.total_bytes and not confirm):
            return "no" if low > device.total_bytes else "fits"
        return "fits" if fits(self.estimate(device, layout), device) else "no"


def learned_reckoner(recipe: Recipe, shape: ModelShape, measured: Measurements) -> Reckoner:
    """A reckoner whose margins are those that the user's own runs leave."""
    return Reckoner(recipe, shape, replay=partial(estimate_memory, measured=measured), look=partial(at_least_bytes, measured=measured))
