"""A memory timeline as lines of text for the terminal. Colours where they show, letters where they do not."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from cloudtune.show.chart import SHORT, chart_of, tick_words, ticks
from cloudtune.show.text import Page, notes
from cloudtune.units import gib

if TYPE_CHECKING:
    from cloudtune.memory.timeline import Timeline
    from cloudtune.show.chart import Band, Chart

HEIGHT = 16
WIDEST = 110
NO_TERMINAL = 88
LETTERS = {
    "weights": "W",
    "adapters": "A",
    "gradients": "G",
    "optimizer states": "O",
    "activations": "a",
    "logits and loss": "L",
    "autocast copies": "c",
    "unpacked weights": "u",
    "gathered layers": "g",
    "communication": "n",
    "other": ".",
}


def timeline_lines(curve: Timeline, page: Page, title: str) -> list[str]:
    """The plot: rows from the top down, phases below, a legend, and where the peak is."""
    chart = chart_of(curve, title)
    labels = {round(size / chart.top_bytes * HEIGHT): tick_words(size) for size in ticks(chart.top_bytes)}
    margin = max(len(label) for label in labels.values()) + 2
    width = min(WIDEST, (page.width or NO_TERMINAL) - margin - 1)
    columns = _columns(chart, width)
    lines = [page.paint(title, "bold")]
    marks = {round(size / chart.top_bytes * HEIGHT): words for size, words in chart.lines}
    for row in range(HEIGHT, 0, -1):
        cells = "".join(_cell(chart, column, row, page) for column in columns)
        lines.append(f"{labels.get(row, '').rjust(margin - 1)} |{_ruled(cells, marks.get(row, ''), len(columns), page)}".rstrip())
    lines.append(f"{labels.get(0, '').rjust(margin - 1)} +{'-' * len(columns)}")
    lines.append(" " * (margin + 1) + _phases(chart, len(columns)))
    lines += _legend(chart, page)
    where = f"the highest point, {gib(curve.peak_bytes)} of live memory, is in: {curve.highest.phase}"
    lines += notes(page, [f"{where}; the axis counts allocations, not time"])
    return lines


def _columns(chart: Chart, width: int) -> list[int]:
    """For each column the index of its highest point."""
    count = len(chart.tops)
    width = min(width, count)
    edges = [number * count // width for number in range(width + 1)]
    return [max(range(start, stop), key=lambda index: chart.tops[index]) for start, stop in pairwise(edges)]


def _cell(chart: Chart, index: int, row: int, page: Page) -> str:
    """One character: the band that its middle lies in."""
    height = (row - 0.5) / HEIGHT * chart.top_bytes
    ground = 0
    for band in chart.bands:
        ground += band.sizes[index]
        if height <= ground:
            return _painted(band, page)
    return " "


def _painted(band: Band, page: Page) -> str:
    if not (page.colour and page.unicode):
        return LETTERS.get(band.name, "?")
    red, green, blue = (int(band.colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m█\x1b[0m"


def _ruled(cells: str, words: str, width: int, page: Page) -> str:
    """A row that a line of the chart runs through, where nothing else is: its name at the right end."""
    if not words or cells.strip():
        return cells
    dash = "╌" if page.unicode else "-"
    return f"{dash * max(0, width - len(words) - 1)} {words}"


def _phases(chart: Chart, width: int) -> str:
    """Names of the phases below where they begin, shortened or left out where there is no room."""
    count, text = len(chart.tops), ""
    starts = [index * width // count for index, _ in chart.phases]
    for (_, phase), start, end in zip(chart.phases, starts, [*starts[1:], width], strict=True):
        name = phase if len(phase) < end - start else SHORT.get(phase, phase)
        text = text.ljust(start)
        text += name if len(name) < end - start else ""
    return text


def _legend(chart: Chart, page: Page) -> list[str]:
    """Sign, name and bytes at the peak of every band, the topmost first."""
    entries = [(band, band.sizes[chart.peak]) for band in reversed(chart.bands)]
    width = max(len(band.name) for band, _ in entries)
    return [f"  {_painted(band, page)} {band.name.ljust(width)}  {gib(size):>9}" for band, size in entries if size]
