"""Errors → text for people and JSON for programs: what happened, where, and the next thing to do. Catches nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cloudtune.errors import CloudtuneError, Fault, JobFailed, RecipeError
from cloudtune.show.text import Page, plain, wrap

_LOG_LINES = 20
_MOST_FAULTS = 50


def error_lines(error: CloudtuneError, page: Page) -> list[str]:
    """``error`` as lines for a terminal."""
    if isinstance(error, RecipeError):
        return _recipe_lines(error, page)
    lines = [f"{page.paint('error:', 'red')} {line}" if not number else line for number, line in enumerate(_what(error, page))]
    if error.where:
        lines.append(f"  {page.paint('at', 'dim')} {plain(error.where)}")
    if isinstance(error, JobFailed) and error.log_tail:
        lines.append(page.paint("  its last lines:", "dim"))
        lines += [f"    {plain(line)}" for line in error.log_tail[-_LOG_LINES:]]
    return [*lines, *_hint(error.hint, page)]


def _what(error: CloudtuneError, page: Page) -> list[str]:
    text = " ".join(plain(error.what).split())
    return wrap(text, page.width - 7 if page.width else 0)


def _hint(hint: str, page: Page) -> list[str]:
    if not hint:
        return []
    arrow = "→" if page.unicode else "->"
    head, *rest = wrap(plain(hint), page.width - 4 if page.width else 0)
    return [f"  {page.paint(arrow, 'cyan')} {head}", *(f"    {line}" for line in rest)]


def _recipe_lines(error: RecipeError, page: Page) -> list[str]:
    count = len(error.faults)
    lines = [_fault_line(fault, page) for fault in error.faults[:_MOST_FAULTS]]
    if count > _MOST_FAULTS:
        lines.append(f"... and {count - _MOST_FAULTS} more")
    lines.append(f"{page.paint('error:', 'red')} {error.what}")
    return [*lines, *_hint(error.hint, page)]


def _fault_line(fault: Fault, page: Page) -> str:
    text = plain(str(fault))
    place = f"{fault.file}:{fault.line}:{fault.column}:" if fault.line else f"{fault.file}:" if fault.file else ""
    return f"{page.paint(place, 'bold')}{text.removeprefix(place)}" if place and text.startswith(place) else text


def error_body(error: CloudtuneError) -> dict[str, Any]:
    """``error`` as the object behind the key ``error`` of every ``--json`` answer."""
    body: dict[str, Any] = {"code": error.code, "what": error.what, "where": error.where, "hint": error.hint, "exit_code": error.exit_code}
    body["faults"] = [asdict(fault) for fault in error.faults] if isinstance(error, RecipeError) else []
    if isinstance(error, JobFailed):
        body["log_tail"] = list(error.log_tail)
    return body
