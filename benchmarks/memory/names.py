"""From the names that published tables use to model shapes. Reads the offline registry and ``data/models.json`` only.

A name is looked up as it stands, then by its words: ``Llama 2 7 B``, ``Llama-2-7b-hf`` and ``meta-llama/Llama-2-7b`` are one
model. Nothing is guessed: a name that is not known this way is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cloudtune.errors import SourceError
from cloudtune.models.families import shape_of
from cloudtune.models.registry import entries, find_shape
from cloudtune.models.shape import ModelShape, Tensor

HERE = Path(__file__).resolve().parent
# words that say how a model was tuned or stored, not how large it is
IDLE = frozenset({"meta", "instruct", "chat", "hf", "it", "base", "text"})


@cache
def extra() -> dict[str, Any]:
    """Names and configs that the registry does not hold."""
    document: dict[str, Any] = json.loads((HERE / "data" / "models.json").read_text("utf-8"))
    return document


def words(name: str) -> tuple[str, ...]:
    """The words and numbers of a model's name without its owner."""
    last = name.partition(" (")[0].rstrip("/").rpartition("/")[2].lower()
    return tuple(word for word in re.findall(r"[a-z]+|\d+(?:\.\d+)?", last) if word not in IDLE)


@cache
def _by_words() -> dict[tuple[str, ...], str]:
    known = [name for entry in reversed(entries()) for name in (*entry.aliases, entry.id)]
    names = {words(name): name for name in known} | {words(name): name for name in extra()["configs"]}
    return {words(name): target for name, target in extra()["names"].items()} | names


def shape_named(name: str) -> tuple[ModelShape, str]:
    """The model's shape and the task: ``bert-large-uncased (sequence classification head)`` says both. Raises SourceError."""
    shape = _shape(name.partition(" (")[0].strip())
    if "classification" in name.lower():
        return with_classifier(shape), "classification"
    return shape, "masked_lm" if shape.family == "encoder" else "causal_lm"


def _shape(base: str) -> ModelShape:
    if not words(base):
        raise SourceError("the row names no model", code="unknown-model")
    base = extra()["names"].get(base.lower(), base)
    known = {entry.id.lower() for entry in entries()} | {alias.lower() for entry in entries() for alias in entry.aliases}
    if base.lower() not in known and base not in extra()["configs"]:
        base = _by_words().get(words(base), base)
    if base in extra()["configs"]:
        return shape_of(extra()["configs"][base]["config"], source=extra()["configs"][base]["source"])
    if base.lower() not in known:  # no folder of this machine is meant
        raise SourceError(f"{base} is not in the offline registry", code="unknown-model")
    return find_shape(base, base_dir=HERE)


def with_classifier(shape: ModelShape) -> ModelShape:
    """The encoder with pooler and two-class classifier instead of its language-modelling head (BertForSequenceClassification)."""
    if shape.family != "encoder":
        raise SourceError("a classifier on a decoder is not modelled", code="no-memory-template")
    hidden = shape.hidden_size
    head = (
        Tensor("bert.pooler.dense.weight", (hidden, hidden), "linear"),
        Tensor("bert.pooler.dense.bias", (hidden,), "bias"),
        Tensor("classifier.weight", (2, hidden), "linear"),
        Tensor("classifier.bias", (2,), "bias"),
    )
    return replace(shape, head=head)
