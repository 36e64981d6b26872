"""Values → plain JSON, the same for the same value. Knows no command and decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any


def to_plain(value: Any) -> Any:
    """``value`` as dicts, lists, text and numbers; NaN and infinities, which JSON has not, become null.

    Pydantic values give their own JSON form, dataclasses their fields, times ISO 8601, job references their URL.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PurePath) or getattr(value, "WRITTEN_AS_TEXT", False):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return to_plain(_fields(value))


def _fields(value: Any) -> dict[str, Any]:
    if hasattr(value, "model_dump"):
        dumped: dict[str, Any] = value.model_dump(mode="json")
        return dumped
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_text(value: Any) -> str:
    """``value`` as one indented JSON document with a newline at its end."""
    return json.dumps(to_plain(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
