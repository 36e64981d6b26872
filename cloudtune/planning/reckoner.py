"""Memory verdicts with as few replays as possible: bounds first, one replay per (GPU, layout), remembered. Pure.

A layout whose lower bound is above the card is out, one whose upper bound is below it is in; only what lies between
is replayed. The verdict of a replay is the upper end of its error bar against the card's real size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.memory.reckon import estimate_memory
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import Offer
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe

Verdict = Literal["fits", "no", "unsure"]
Bounds = tuple[int, int]


def device_of(offer: Offer) -> Device:
    """The memory device of an offer: one of its GPUs, or the host when it has none."""
    if offer.gpu_count == 0:
        return Device.cpu(total_bytes=offer.host_memory_bytes)
    return Device.cuda(offer.gpu.name, total_bytes=offer.gpu.memory_bytes, compute_capability=offer.gpu.compute_capability)


def fits(estimate: Estimate, device: Device) -> bool:
    """Whether a replay says that the layout runs on the device, margins included."""
    return estimate.high_bytes <= device.total_bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One full reckoning and what it was for."""

    device: Device
    layout: Layout
    estimate: Estimate


@dataclass(slots=True)
class Reckoner:
    """Memory of one recipe on any device. ``replays`` counts the full reckonings made so far."""

    recipe: Recipe
    shape: ModelShape
    replay: Callable[[Recipe, ModelShape, Layout, Device], Estimate] = estimate_memory
    bound: Callable[[Recipe, ModelShape, Layout, Device], Bounds] | None = None
    replays: int = 0
    _known: dict[tuple[Device, Layout], Estimate] = field(default_factory=dict)
    _bounds: dict[tuple[Device, Layout], Bounds] = field(default_factory=dict)

    def estimate(self, device: Device, layout: Layout) -> Estimate:
        """The full reckoning."""
        key = (device, layout)
        if key not in self._known:
            self.replays += 1
            self._known[key] = self.replay(self.recipe, self.shape, layout, device)
        return self._known[key]

    def bounds(self, device: Device, layout: Layout) -> Bounds:
        """(at least, at most) in bytes, margins included; both equal the verdict's number after a replay."""
        key = (device, layout)
        if key in self._known:
            high = self._known[key].high_bytes
            return high, high
        if self.bound is None:
            return 0, 1 << 62
        if key not in self._bounds:
            self._bounds[key] = self.bound(self.recipe, self.shape, layout, device)
        return self._bounds[key]

    def verdict(self, device: Device, layout: Layout, *, smallest: Layout, may_replay: bool) -> Verdict:
        """What is known, or becomes known with a replay where that is allowed.

        ``smallest`` is the same layout with the smallest micro batch: when that does not fit, one replay settles them all.
        """
        low, high = self.bounds(device, layout)
        if low > device.total_bytes:
            return "no"
        if high <= device.total_bytes:
            return "fits"
        if not may_replay and (device, layout) not in self._known:
            return "unsure"
        if smallest != layout and not fits(self.estimate(device, smallest), device):
            return "no"
        return "fits" if fits(self.estimate(device, layout), device) else "no"

    def leanest(self) -> Attempt | None:
        """Of all full reckonings the one that needed least; None when there was none."""
        if not self._known:
            return None
        (device, layout), estimate = min(self._known.items(), key=lambda item: item[1].peak_bytes)
        return Attempt(device, layout, estimate)
