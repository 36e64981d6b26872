"""A memory timeline as a PNG, drawn with the standard library alone. Draws what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.show.chart import SHORT, chart_of, tick_words, ticks
from cloudtune.show.raster import Colour, Raster, text_width
from cloudtune.units import gib

if TYPE_CHECKING:
    from cloudtune.memory.timeline import Timeline
    from cloudtune.show.chart import Chart

WIDTH, HEIGHT = 1400, 720
LEFT, TOP, RIGHT, BOTTOM = 150, 60, 20, 150
GREY, DARK, PALE = (90, 90, 90), (20, 20, 20), (228, 228, 228)
LEGEND_COLUMN = 440


def png(curve: Timeline, title: str) -> bytes:
    """The picture: bands, scale, lines, phases, a legend with the bytes at the peak."""
    chart = chart_of(curve, title)
    picture = Raster(WIDTH, HEIGHT)
    picture.text(LEFT, 20, title, DARK)
    for size in ticks(chart.top_bytes):
        y, label = _y(chart, size), tick_words(size)
        picture.fill(LEFT, y, WIDTH - RIGHT, y + 1, PALE)
        picture.text(LEFT - 12 - text_width(label), y - 7, label, GREY)
    _bands(picture, chart)
    for size, words in chart.lines:
        y = _y(chart, size)
        for x in range(LEFT, WIDTH - RIGHT, 12):
            picture.fill(x, y, x + 7, y + 2, DARK)
        picture.text(WIDTH - RIGHT - text_width(words), y - 20, words, DARK)
    _phases(picture, chart)
    _legend(picture, chart)
    return picture.png()


def _bands(picture: Raster, chart: Chart) -> None:
    span = WIDTH - RIGHT - LEFT
    for column in range(span):
        index = column * len(chart.tops) // span
        ground = 0
        for band in chart.bands:
            top = ground + band.sizes[index]
            picture.fill(LEFT + column, _y(chart, top), LEFT + column + 1, _y(chart, ground), _rgb(band.colour))
            ground = top


def _phases(picture: Raster, chart: Chart) -> None:
    ground = HEIGHT - BOTTOM
    starts = [_x(chart, index) for index, _ in chart.phases]
    for (_, phase), start, end in zip(chart.phases, starts, [*starts[1:], WIDTH - RIGHT], strict=True):
        picture.fill(start, ground, start + 1, ground + 8, GREY)
        name = phase if text_width(phase) < end - start else SHORT.get(phase, phase)
        if text_width(name) < end - start:
            picture.text((start + end - text_width(name)) // 2, ground + 12, name, GREY)
    x, y = _x(chart, chart.peak), _y(chart, chart.tops[chart.peak])
    picture.fill(x - 3, y - 3, x + 4, y + 4, DARK)


def _legend(picture: Raster, chart: Chart) -> None:
    entries = [(band, band.sizes[chart.peak]) for band in reversed(chart.bands)]
    rows = -(-len(entries) // 3)
    for number, (band, size) in enumerate(entries):
        x, y = LEFT + number // rows * LEGEND_COLUMN, HEIGHT - BOTTOM + 44 + number % rows * 24
        picture.fill(x, y, x + 14, y + 14, _rgb(band.colour))
        picture.text(x + 22, y, f"{band.name} {gib(size)}", DARK)


def _rgb(colour: str) -> Colour:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _x(chart: Chart, index: int) -> int:
    return LEFT + (WIDTH - RIGHT - LEFT) * index // len(chart.tops)


def _y(chart: Chart, size: int) -> int:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * size // chart.top_bytes
