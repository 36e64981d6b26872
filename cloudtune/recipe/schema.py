"""The JSON schema of a recipe, for editors (completion, hover texts, squiggles). Pure; draft 2020-12.

Editors cannot know which combinations are impossible or which files exist: ``cloudtune validate`` stays the judge.
"""

from __future__ import annotations

from typing import Any

from cloudtune.recipe.keys import meanings
from cloudtune.recipe.spec import (
    AwsSpec,
    BudgetSpec,
    ComputeSpec,
    DataSource,
    DataSpec,
    FullMethod,
    GcpSpec,
    LoraMethod,
    ModelSpec,
    OutputSpec,
    QloraMethod,
    Recipe,
    TrackingSpec,
    TrainingSpec,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MODELS = (
    AwsSpec,
    BudgetSpec,
    ComputeSpec,
    DataSource,
    DataSpec,
    FullMethod,
    GcpSpec,
    LoraMethod,
    ModelSpec,
    OutputSpec,
    QloraMethod,
    TrackingSpec,
    TrainingSpec,
)


def json_schema() -> dict[str, Any]:
    """The schema as plain JSON values, the same on every call and machine."""
    raw = Recipe.model_json_schema()
    definitions = {name: _tidy(one) for name, one in sorted(raw.pop("$defs").items())}
    for model in _MODELS:
        _describe(definitions[model.__name__], meanings(model))
    body = _tidy(raw)
    _describe(body, meanings(Recipe))
    body["title"] = "cloudtune recipe, version 1"
    return {"$schema": DIALECT, **body, "$defs": definitions}


def _describe(schema: dict[str, Any], texts: dict[str, str]) -> None:
    for name, text in texts.items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = " ".join(text.split())


def _tidy(node: Any) -> Any:
    """Without what editors do not know (OpenAPI's discriminator) or do not need (a section's default values, made-up titles)."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if key != "discriminator" and not (key == "title" and "type" in node)}
    if "$ref" in tidy:
        tidy.pop("default", None)
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False  # else a key that fits no pattern would pass unseen
    return tidy
