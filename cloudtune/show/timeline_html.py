"""A memory timeline as a picture in SVG, alone or in a page that needs nothing from elsewhere. Draws what it is given."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from cloudtune.show.chart import SHORT, chart_of, tick_words, ticks
from cloudtune.units import gib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudtune.memory.timeline import Timeline
    from cloudtune.show.chart import Chart

WIDTH, HEIGHT = 1080, 420
LEFT, TOP, BOTTOM = 90, 30, 40
NARROWEST_NAME = 34  # pixels of a phase from which on its name is written
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem 1rem .15rem 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}i{display:inline-block;width:.9em;height:.9em;border-radius:2px}
svg{width:100%;height:auto}p.s{color:#666}
"""


def html_page(curve: Timeline, title: str, sentences: Sequence[str] = ()) -> str:
    """A page with the picture, a table of the peak, and the explanation where there is one."""
    chart = chart_of(curve, title)
    rows = "".join(
        f'<tr><td><i style="background:{band.colour}"></i> {escape(band.name)}</td><td class="n">{gib(band.sizes[chart.peak])}</td></tr>'
        for band in reversed(chart.bands)
    )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    total = f'<tr><th>in all</th><td class="n">{gib(curve.peak_bytes)}</td></tr>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        f"<h1>{escape(title)}</h1>\n{_svg(chart)}\n<h2>At the peak ({escape(curve.highest.phase)})</h2>\n"
        f"<table><tr><th>what</th><th>live bytes</th></tr>{rows}{total}</table>\n"
        f"{f'<ul>{said}</ul>' if said else ''}"
        '<p class="s">The horizontal axis counts allocations and frees, not time. Made by cloudtune.</p>\n</body></html>\n'
    )


def svg(curve: Timeline, title: str) -> str:
    """The picture alone."""
    return _svg(chart_of(curve, title), title=True) + "\n"


def _svg(chart: Chart, *, title: bool = False) -> str:
    pieces = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui,sans-serif" font-size="12">']
    if title:
        pieces.append(
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text x="{LEFT}" y="18" font-size="14">{escape(chart.title)}</text>'
        )
    for size in ticks(chart.top_bytes):
        height = _y(chart, size)
        pieces.append(f'<path d="M{LEFT} {height:.1f}H{WIDTH}" stroke="#e5e5e5"/>')
        pieces.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end" fill="#555">{tick_words(size)}</text>')
    pieces += _bands(chart)
    for size, words in chart.lines:
        height = _y(chart, size)
        pieces.append(f'<path d="M{LEFT} {height:.1f}H{WIDTH}" stroke="#333" stroke-dasharray="5 4"/>')
        pieces.append(f'<text x="{WIDTH - 4}" y="{height - 5:.1f}" text-anchor="end" fill="#333">{escape(words)}</text>')
    return "".join([*pieces, *_phases(chart), "</svg>"])


def _bands(chart: Chart) -> list[str]:
    """Every band as a polygon on top of those below it."""
    ground = [0] * len(chart.tops)
    found = []
    for band in chart.bands:
        top = [low + size for low, size in zip(ground, band.sizes, strict=True)]
        there = [f"{_x(chart, index):.1f},{_y(chart, size):.1f}" for index, size in enumerate(top)]
        back = [f"{_x(chart, index):.1f},{_y(chart, size):.1f}" for index, size in reversed(list(enumerate(ground)))]
        words = escape(f"{band.name}: {gib(band.sizes[chart.peak])} at the peak")
        found.append(f'<polygon points="{" ".join([*there, *back])}" fill="{band.colour}"><title>{words}</title></polygon>')
        ground = top
    return found


def _phases(chart: Chart) -> list[str]:
    """Boundaries of the phases with their names below, and the peak."""
    found = []
    ends = [index for index, _ in chart.phases[1:]] + [len(chart.tops)]
    for (start, phase), end in zip(chart.phases, ends, strict=True):
        left, room = _x(chart, start), _x(chart, end) - _x(chart, start)
        found.append(f'<path d="M{left:.1f} {HEIGHT - BOTTOM}v6" stroke="#555"/>')
        if room >= NARROWEST_NAME:
            name = phase if room >= 2 * NARROWEST_NAME else SHORT.get(phase, phase)
            found.append(
                f'<text x="{left + room / 2:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#555">{escape(name)}</text>'
            )
    x, y = _x(chart, chart.peak), _y(chart, chart.tops[chart.peak])
    found.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#111"/>')
    return found


def _x(chart: Chart, index: int) -> float:
    return LEFT + (WIDTH - LEFT) * index / max(1, len(chart.tops) - 1)


def _y(chart: Chart, size: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * size / chart.top_bytes
