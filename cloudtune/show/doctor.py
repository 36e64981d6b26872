"""The diagnosis of ``doctor`` as text. Judges nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.show.text import Column, Page, Row, Style, notes, pairs, table

if TYPE_CHECKING:
    from cloudtune.verbs.doctor import Diagnosis

_STYLES: dict[str, Style] = {"ok": "green", "note": "yellow", "problem": "red"}


def diagnosis_lines(diagnosis: Diagnosis, page: Page) -> list[str]:
    """Every check with its verdict, then every setting with its origin."""
    lines = [page.paint("This installation", "bold")]
    for check in diagnosis.checks:
        mark = page.paint(check.verdict, _STYLES[check.verdict]) + " " * (7 - len(check.verdict))
        lines += pairs(page, [(check.name.ljust(16), f"{mark}  {check.found}")])
        lines += notes(page, [check.hint], sign=" " * 24 + "→") if check.hint else []
    lines += ["", page.paint("Settings", "bold")]
    rows = [Row([item.name, item.value or "-", item.origin, item.purpose], None if item.value else "dim") for item in diagnosis.settings]
    columns = [Column("name"), Column("value", flexible=True), Column("from", flexible=True), Column("what it is", flexible=True)]
    return [*lines, *table(page, columns, rows)]
