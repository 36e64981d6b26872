"""The name of a recipe's content: sha256 over its canonical JSON. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cloudtune.recipe.spec import Recipe


def canonical_json(recipe: Recipe) -> str:
    """The recipe with all defaults as JSON: keys sorted, no spaces, no negative zero. Equal recipes give equal text."""
    values = _without_negative_zero(recipe.model_dump(mode="json"))
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def recipe_digest(recipe: Recipe) -> str:
    """sha256 of ``canonical_json``, 64 hexadecimal digits. A default written out or left out makes no difference."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def _without_negative_zero(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_negative_zero(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_negative_zero(inner) for inner in value]
    return 0.0 if isinstance(value, float) and value == 0 else value
