"""Combinations that no job can have. Pure: looks at the values as written, returns faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudtune.errors import Fault

ERROR_TYPE = "impossible_combination"


def conflicts(given: Mapping[str, Any]) -> list[Fault]:
    """Every impossible combination among the keys that the author wrote; tolerates values of wrong types."""
    return []
