"""Plain text for terminals: aligned tables, wrapped notes, colours only where somebody sees them. Knows no job or plan.

Written without rich so that commands which print once start fast; the live view (``live.py``) uses rich.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STYLED = re.compile(r"\x1b\[[0-9;]*m")
_NARROWEST = 10  # a flexible column is never squeezed below this
_FALLBACK_COLUMNS = 80

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]


class Page(NamedTuple):
    """What text is written on. ``width`` 0 means that lines may be as long as they like (a pipe, a file)."""

    width: int = 0
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, style: Style | None) -> str:
        """``text`` with a style where colours show, else as it is."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and self.colour and text else text


def page_for(stream: TextIO) -> Page:
    """The page behind ``stream``: a terminal's width and colours, or an endless plain page for pipes and files.

    NO_COLOR and TERM=dumb switch colours off.
    """
    unicode = (getattr(stream, "encoding", "") or "utf-8").lower().replace("-", "") == "utf8"
    if not stream.isatty():
        return Page(unicode=unicode)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Page(max(40, shutil.get_terminal_size((_FALLBACK_COLUMNS, 24)).columns), colour, unicode)


def stdout_page() -> Page:
    """The page behind standard output."""
    return page_for(sys.stdout)


def stderr_page() -> Page:
    """The page behind standard error."""
    return page_for(sys.stderr)


def plain(text: str) -> str:
    """``text`` without colours and without characters that steer a terminal (names and messages come from files)."""
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in _STYLED.sub("", text))


def near(path: str, here: str) -> str:
    """``path`` as it is written from the folder ``here``, when it lies below it."""
    return path.removeprefix(f"{here.rstrip('/')}/") if here else path


def cells(text: str) -> int:
    """Columns that ``text`` takes on a terminal; colours take none, wide characters two."""
    bare = _STYLED.sub("", text)
    if bare.isascii():
        return len(bare)
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in bare)


def wrap(text: str, width: int, *, indent: int = 0) -> list[str]:
    """``text`` in lines of at most ``width`` columns (0 = one line), later lines indented; long words are not cut."""
    if not width or cells(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split():
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


class Column(NamedTuple):
    """A table's column. ``flexible`` gives way when the table is too wide: its text is wrapped."""

    title: str
    align: Literal["left", "right"] = "left"
    flexible: bool = False


class Row(NamedTuple):
    """A table's row, and the style of the whole row."""

    cells: Sequence[str]
    style: Style | None = None


def table(page: Page, columns: Sequence[Column], rows: Iterable[Row], *, indent: int = 2) -> list[str]:
    """Lines of an aligned table without rules; columns that are empty in every row are left out."""
    rows = [Row([plain(cell) for cell in row.cells], row.style) for row in rows]
    used = [index for index in range(len(columns)) if any(row.cells[index] for row in rows)]
    columns = [columns[index] for index in used]
    rows = [Row([row.cells[index] for index in used], row.style) for row in rows]
    widths = _widths(page, columns, rows, indent)
    head = Row([column.title for column in columns], "dim")
    lines: list[str] = []
    for row in [head, *rows] if any(column.title for column in columns) else rows:
        lines += _row_lines(page, columns, widths, row, indent)
    return lines


def _widths(page: Page, columns: Sequence[Column], rows: Sequence[Row], indent: int) -> list[int]:
    widths = [max([cells(column.title), *(cells(row.cells[index]) for row in rows)]) for index, column in enumerate(columns)]
    if not page.width:
        return widths
    excess = indent + sum(widths) + 2 * (len(widths) - 1) - page.width
    for index in sorted((i for i, column in enumerate(columns) if column.flexible), key=lambda i: -widths[i]):
        longest_word = max((cells(word) for row in rows for word in row.cells[index].split()), default=0)
        narrowest = max(_NARROWEST, longest_word, cells(columns[index].title))
        given = min(max(excess, 0), max(0, widths[index] - narrowest))
        widths[index] -= given
        excess -= given
    return widths


def _row_lines(page: Page, columns: Sequence[Column], widths: Sequence[int], row: Row, indent: int) -> list[str]:
    wrapped = [wrap(cell, width) if column.flexible else [cell] for cell, width, column in zip(row.cells, widths, columns, strict=True)]
    lines = []
    for depth in range(max((len(parts) for parts in wrapped), default=0)):
        pieces = []
        for parts, width, column in zip(wrapped, widths, columns, strict=True):
            text = parts[depth] if depth < len(parts) else ""
            gap = " " * max(0, width - cells(text))
            pieces.append(f"{gap}{text}" if column.align == "right" else f"{text}{gap}")
        lines.append(" " * indent + page.paint("  ".join(pieces).rstrip(), row.style))
    return lines


def pairs(page: Page, entries: Iterable[tuple[str, str]], *, indent: int = 2) -> list[str]:
    """``name   value`` lines with aligned values; long values wrap under themselves, empty ones are left out."""
    entries = [(name, value) for name, value in entries if value]
    width = max((cells(name) for name, _ in entries), default=0)
    lines = []
    for name, value in entries:
        room = page.width - indent - width - 2 if page.width else 0
        head, *rest = wrap(value, max(room, _NARROWEST) if page.width else 0)
        lines.append(f"{' ' * indent}{page.paint(name.ljust(width), 'dim')}  {head}")
        lines += [f"{' ' * (indent + width + 2)}{line}" for line in rest]
    return lines


def notes(page: Page, texts: Iterable[str], *, sign: str = "-", style: Style | None = None) -> list[str]:
    """A list of sentences, each behind ``sign``, wrapped."""
    lines = []
    for text in texts:
        room = page.width - 4 if page.width else 0
        head, *rest = wrap(plain(text), room)
        lines.append(page.paint(f"  {sign} {head}", style))
        lines += [page.paint(f"    {line}", style) for line in rest]
    return lines


def meter(page: Page, fraction: float, width: int) -> str:
    """A bar of ``width`` columns that is filled to ``fraction`` (0 to 1), in eighths where the terminal has them."""
    fraction = min(1.0, max(0.0, fraction))
    if not page.unicode:
        return "#" * round(fraction * width)
    eighths = round(fraction * width * 8)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])


def sparkline(values: Sequence[float], width: int, *, unicode: bool = True) -> str:
    """The last values as a curve of ``width`` columns at most; several values share a column by their mean."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]  # noqa: PLR0124 - NaN is not itself
    if not finite or width < 1:
        return ""
    share = -(-len(finite) // width)
    means = [sum(part) / len(part) for part in (finite[start : start + share] for start in range(0, len(finite), share))]
    low, high = min(means), max(means)
    steps = "▁▂▃▄▅▆▇█" if unicode else "_.-=*#"
    scale = (len(steps) - 1) / (high - low) if high > low else 0.0
    return "".join(steps[round((mean - low) * scale)] for mean in means)
