"""Paths inside a recipe: tuples of keys and list positions, and their text form ``data.train[0].path``. Pure.

Also how keys and values are shown in messages: short, without control characters, and never a secret.
"""

from __future__ import annotations

import re
from typing import Any

Where = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[\w-]{1,60}")
_STEP = re.compile(r"\[(\d{1,6})\]|(?:^|\.)([^.\[\]]+)")
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{6,}|sk-[\w-]{6,}|AKIA[0-9A-Z]{8,}|gh[pousr]_\w{6,}|github_pat_\w{6,}|glpat-[\w-]{6,}|xox[a-z]-[\w-]{6,}"
    r"|AIza[\w-]{10,}|ya29\.[\w-]{6,}|eyJ[\w-]{10,}|-----BEGIN|(?=[A-Za-z0-9+/=_-]*[0-9])(?=[A-Za-z0-9+/=_-]*[A-Za-z])[A-Za-z0-9+/=_-]{32,}"
)
_SHOWN_LENGTH = 40
_SEARCHED_LENGTH = 200  # more is never shown


def dotted(where: Where) -> str:
    """``("data", "train", 0, "path")`` as ``data.train[0].path``."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{show_key(step)}"
    return text


def parse_path(text: str) -> Where | None:
    """The inverse of ``dotted``; ``data.train.0.path`` is understood too. None when ``text`` is no path."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if not match:
            return None
        index, key = match.groups()
        steps.append(int(index) if index else int(key) if key.isascii() and key.isdigit() else key)
        position = match.end()
    return tuple(steps) or None


def looks_secret(text: str) -> bool:
    """Whether ``text`` contains something shaped like an access token or key."""
    return bool(_SECRET.search(text[:_SEARCHED_LENGTH]))


def show_key(key: str) -> str:
    """A key as it may be printed."""
    if looks_secret(key):
        return "(hidden)"
    return key if _PLAIN_KEY.fullmatch(key) else _short(repr(key))


def show_value(value: Any) -> str:
    """A wrong value as it may be printed: ``'three'``, ``0.5``, ``true``, ``a list of 2``; nothing that looks like a secret."""
    if isinstance(value, str):
        return "(hidden)" if looks_secret(value) else _short(repr(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _short(_number(value))
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return "empty"


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 - the one number that is not itself
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return "too large a number" if value > 0 else "too small a number"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
