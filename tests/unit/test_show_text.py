"""Plain terminal text: alignment, wrapping, colours, bars and curves."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.show.text import Column, Page, Row, cells, meter, notes, page_for, pairs, plain, sparkline, table, wrap

WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)


def test_a_pipe_gets_no_colours_and_no_width() -> None:
    page = page_for(io.StringIO())
    assert page == Page(width=0, colour=False, unicode=True)
    assert page.paint("text", "red") == "text"


def test_columns_line_up_and_numbers_stand_right() -> None:
    lines = table(Page(), [Column("name"), Column("price", "right")], [Row(["a", "$1.00"]), Row(["longer", "$10.00"])], indent=0)
    assert lines == ["name     price", "a        $1.00", "longer  $10.00"]


def test_empty_columns_are_left_out() -> None:
    lines = table(Page(), [Column("a"), Column("never"), Column("b")], [Row(["1", "", "2"]), Row(["3", "", "4"])], indent=0)
    assert lines[0].split() == ["a", "b"]


def test_a_flexible_column_wraps_under_itself() -> None:
    lines = table(Page(width=40), [Column("name"), Column("why", flexible=True)], [Row(["first", "word " * 12])])
    assert all(cells(line) <= 40 for line in lines)
    assert lines[2].startswith("         word"), "continuation lines start below their column"


def test_wide_characters_take_two_columns() -> None:
    assert cells("模型") == 4
    assert cells("\x1b[31mred\x1b[0m") == 3
    lines = table(Page(), [Column("a"), Column("b")], [Row(["模型", "x"]), Row(["abcd", "x"])], indent=0)
    assert [cells(line) for line in lines[1:]] == [7, 7]


@given(WORDS, st.integers(min_value=1, max_value=80))
def test_wrapping_loses_no_word(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert " ".join(lines).split() == text.split()
    longest = max((cells(word) for word in text.split()), default=0)
    assert all(cells(line) <= max(width, longest) for line in lines) or lines == [text]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=6), st.integers(min_value=40, max_value=120))
def test_tables_take_any_text(rows: list[tuple[str, str, str]], width: int) -> None:
    for page in (Page(), Page(width, colour=True)):
        lines = table(page, [Column("a"), Column("b", "right"), Column("c", flexible=True)], [Row(row, "red") for row in rows])
        assert not any("\n" in line or "\r" in line for line in lines)


@given(WORDS)
def test_plain_text_cannot_steer_the_terminal(text: str) -> None:
    assert not set(plain(text)).intersection("\x1b\x07\x08\r\n\x9b")


def test_values_wrap_under_themselves() -> None:
    lines = pairs(Page(width=30), [("name", "one two three four five six seven"), ("empty", "")])
    assert lines[0] == "  name  one two three four"
    assert lines[1] == "        five six seven"
    assert len(lines) == 2


def test_notes_are_indented() -> None:
    assert notes(Page(width=20), ["one two three four five"]) == ["  - one two three", "    four five"]


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, ""), (0.5, "█" * 5), (1.0, "█" * 10), (2.0, "█" * 10), (-1, ""), (0.05, "▌")])
def test_a_meter_is_as_long_as_its_share(fraction: float, expected: str) -> None:
    assert meter(Page(), fraction, 10) == expected


def test_a_meter_without_unicode() -> None:
    assert meter(Page(unicode=False), 0.5, 10) == "#####"


def test_a_sparkline_falls_with_the_loss() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0], 4) == "█▆▃▁"
    assert sparkline([1.0] * 3, 10) == "▁▁▁"
    assert sparkline([], 10) == ""
    assert sparkline([math.nan, math.inf], 10) == ""


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=300), st.integers(min_value=0, max_value=60))
def test_a_sparkline_fits(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) <= width
