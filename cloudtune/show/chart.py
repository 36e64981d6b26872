"""What every picture of a memory timeline shows: bands stacked from the ground up, phases, lines. Values; draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.units import GIB, MIB, gib

if TYPE_CHECKING:
    from cloudtune.memory.timeline import Timeline

SMALL = 0.02  # kinds that never reach this part of the peak share a band
OTHER = "other"
COLOURS = {
    "weights": "#4c78a8",
    "adapters": "#72b7b2",
    "gradients": "#e45756",
    "optimizer states": "#f2a541",
    "activations": "#54a24b",
    "logits and loss": "#b279a2",
    "autocast copies": "#9d755d",
    "unpacked weights": "#d6a5c9",
    "gathered layers": "#6b6ecf",
    "communication": "#8c8c8c",
    OTHER: "#bab0ac",
}
SHORT = {"forward": "fwd", "backward": "bwd", "optimizer": "opt"}


@dataclass(frozen=True, slots=True)
class Band:
    """One kind of memory: its bytes at every point."""

    name: str
    colour: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """``tops`` are the sums of all bands; ``top_bytes`` is the upper end of the scale; ``lines`` are (bytes, words)."""

    title: str
    bands: tuple[Band, ...]
    tops: tuple[int, ...]
    phases: tuple[tuple[int, str], ...]
    peak: int
    """Index of the point of the peak."""
    lines: tuple[tuple[int, str], ...]
    top_bytes: int


def chart_of(curve: Timeline, title: str) -> Chart:
    """Bands in the order of the itemised bar, small ones put together; the card as a line where it is not far above."""
    columns = list(zip(*(point.parts for point in curve.points), strict=True))
    big = [index for index, kind in enumerate(curve.kinds) if kind in COLOURS and max(columns[index]) >= SMALL * curve.peak_bytes]
    bands = [Band(curve.kinds[index], COLOURS[curve.kinds[index]], columns[index]) for index in big]
    rest = [sizes for index, sizes in enumerate(columns) if index not in big]
    if rest:
        bands.append(Band(OTHER, COLOURS[OTHER], tuple(map(sum, zip(*rest, strict=True)))))
    tops = tuple(point.bytes for point in curve.points)
    device = curve.reserved_bytes + curve.context_bytes
    lines = [(device, f"on the device {gib(device)}")]
    if curve.total_bytes < 2.5 * device:
        lines.append((curve.total_bytes, f"{curve.device} {gib(curve.total_bytes)}"))
    highest = max((size for size, _ in lines), default=0)
    return Chart(title, tuple(bands), tops, curve.phases, tops.index(max(tops)), tuple(lines), round(max(highest, *tops) * 1.06))


def ticks(top_bytes: int, most: int = 6) -> list[int]:
    """Round values from 0 to below the top, at most ``most`` of them above 0: steps of 1, 2 or 5 in MiB or GiB."""
    steps = (unit * ten * factor for unit in (MIB, GIB) for ten in (1, 10, 100) for factor in (1, 2, 5))
    step = next((step for step in steps if top_bytes / step <= most), 1000 * GIB)
    return list(range(0, top_bytes, step))


def tick_words(size: int) -> str:
    """A round value without decimals."""
    return f"{size // GIB} GiB" if size >= GIB and size % GIB == 0 else f"{size // MIB} MiB" if size else "0"
