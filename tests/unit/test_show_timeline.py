"""A memory timeline drawn three ways: the pixels, polygons and characters say what the numbers say."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
import zlib

import pytest

from cloudtune.memory.timeline import timeline
from cloudtune.show import timeline_html, timeline_png
from cloudtune.show.chart import OTHER, chart_of, tick_words, ticks
from cloudtune.show.raster import FONT, Raster, text_width
from cloudtune.show.text import Page
from cloudtune.show.timeline import HEIGHT, timeline_lines
from cloudtune.units import GIB, MIB, gib
from tests.unit.memory_builders import L4, layout, recipe, shape

CURVE = timeline(recipe({"type": "full"}, length=1024), shape(), layout(), L4, points=300)


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of an unfiltered 8-bit RGB file, every checksum compared."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        name, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length)[0] == zlib.crc32(name + body)
        chunks[name] = body
        place += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    step = 1 + 3 * width
    assert len(raw) == step * height
    return width, height, [raw[row * step + 1 : (row + 1) * step] for row in range(height)]


def test_bands_are_the_whole_and_small_kinds_share_one() -> None:
    chart = chart_of(CURVE, "t")
    assert tuple(map(sum, zip(*(band.sizes for band in chart.bands), strict=True))) == chart.tops
    assert chart.tops[chart.peak] == max(chart.tops) == CURVE.highest.bytes
    assert chart.bands[-1].name == OTHER
    assert len({band.colour for band in chart.bands}) == len(chart.bands)
    assert chart.top_bytes > CURVE.reserved_bytes + CURVE.context_bytes


@pytest.mark.parametrize("top", [3 * MIB, 700 * MIB, 5 * GIB, 23 * GIB, 1200 * GIB])
def test_ticks_are_round_and_few(top: int) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert 2 <= len(found) <= 7
    assert max(found) < top
    assert all(re.fullmatch(r"0|[125]0* (MiB|GiB)|[1-9]\d* (MiB|GiB)", tick_words(size)) for size in found)


def test_the_png_shows_each_band_as_high_as_it_is() -> None:
    width, height, rows = pixels(timeline_png.png(CURVE, "full training: 8 layers"))
    assert (width, height) == (timeline_png.WIDTH, timeline_png.HEIGHT)
    chart = chart_of(CURVE, "t")
    room = timeline_png.HEIGHT - timeline_png.TOP - timeline_png.BOTTOM
    index = chart.peak + 3  # beside the dot that marks the peak
    column = timeline_png.LEFT + (width - timeline_png.RIGHT - timeline_png.LEFT) * index // len(chart.tops) + 3
    index = (column - timeline_png.LEFT) * len(chart.tops) // (width - timeline_png.RIGHT - timeline_png.LEFT)
    for band in chart.bands:
        colour = bytes(int(band.colour[start : start + 2], 16) for start in (1, 3, 5))
        high = sum(row[3 * column : 3 * column + 3] == colour for row in rows[: height - timeline_png.BOTTOM])
        assert high == pytest.approx(room * band.sizes[index] / chart.top_bytes, abs=3), band.name


def test_the_svg_is_well_formed_and_its_polygons_reach_the_peak() -> None:
    picture = ET.fromstring(timeline_html.svg(CURVE, "a <b> & c"))  # noqa: S314 - our own picture
    polygons = picture.findall("{*}polygon")
    chart = chart_of(CURVE, "t")
    assert len(polygons) == len(chart.bands)
    highest = min(float(point.split(",")[1]) for point in polygons[-1].get("points", "").split())
    ground = timeline_html.HEIGHT - timeline_html.BOTTOM
    assert (ground - highest) / (ground - timeline_html.TOP) == pytest.approx(max(chart.tops) / chart.top_bytes, abs=0.001)
    assert "a <b> & c" in [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_has_the_numbers_and_nothing_from_elsewhere() -> None:
    page = timeline_html.html_page(CURVE, "a <b>", ["weights < activations"])
    assert "a &lt;b&gt;" in page
    assert "weights &lt; activations" in page
    assert gib(CURVE.peak_bytes) in page
    assert not re.findall(r"(?:src|href)=|url\(|<script", page)


@pytest.mark.parametrize("page", [Page(), Page(60), Page(100, colour=True), Page(80, colour=True, unicode=False)], ids=str)
def test_the_terminal_plot_fits_and_names_every_band(page: Page) -> None:
    lines = timeline_lines(CURVE, page, "title")
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert not page.width or max(map(len, bare)) <= page.width
    chart = chart_of(CURVE, "t")
    assert all(any(band.name in line for line in bare) for band in chart.bands if band.sizes[chart.peak])
    plotted = [line.partition("|")[2] for line in bare[1 : HEIGHT + 1]]
    filled = [row for row, line in enumerate(plotted) if re.search(r"[█A-Za-z]", line) and "GiB" not in line and "MiB" not in line]
    assert (HEIGHT - min(filled)) / HEIGHT == pytest.approx(max(chart.tops) / chart.top_bytes, abs=0.1)
    if not page.unicode:
        assert "".join(lines).isascii()


def test_letters_are_seven_rows_of_five_dots_and_all_different() -> None:
    assert all(len(rows) == 7 and max(rows) < 32 for rows in FONT.values())
    assert len(set(FONT.values())) == len(FONT)
    picture = Raster(40, 10)
    picture.text(0, 0, "I~", (0, 0, 0), size=1)
    assert [picture.rows[0][3 * x] == 0 for x in range(5)] == [False, True, True, True, False]
    assert text_width("ab", 2) == 24
