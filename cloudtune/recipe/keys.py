"""Every key a recipe may have, read off the schema: path, what it must be, default and meaning. Pure.

One list serves the messages (expected ..., did you mean ...), the reference page and the editor's schema, so
they cannot disagree. Paths are written with ``[]`` for list items: ``data.train[].path``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cloudtune.recipe.paths import Where
from cloudtune.recipe.spec import DataSource, FullMethod, LoraMethod, QloraMethod, Recipe, Says

METHODS: dict[str, type[BaseModel]] = {"full": FullMethod, "lora": LoraMethod, "qlora": QloraMethod}
REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``default`` is ``REQUIRED`` or the value; ``methods`` names the method types that have it (method keys only)."""

    path: str
    expected: str
    default: Any
    meaning: str
    methods: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """The words that the value may be, where it is one of a few."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its path, in the order of the schema."""
    return {key.path: key for key in _keys_of(Recipe, "")}


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> the docstring below it, for a model and its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__ == Recipe.__module__:
            found.update(_docstrings(base))
    return found


def expected_words(path: str) -> str:
    """What the value at ``path`` must be, in words; empty for an unknown path."""
    key = all_keys().get(path)
    if key:
        return key.expected
    section = path.rpartition(".")[0]
    return _MEMBERS.get(path) or {"data.train[].columns": "the name of a column", "data.special_tokens": "the text of a token"}.get(
        section, ""
    )


def choices_at(path: str) -> tuple[str, ...]:
    """The words that may stand at ``path``; empty where it is not one of a few."""
    key = all_keys().get(path)
    return key.choices if key else ("tensorboard", "wandb", "mlflow") if path == "tracking.report_to[]" else ()


def children(section: str, method: str | None = None) -> list[str]:
    """Names of the keys of a section (``""`` = top level); of ``method`` only those of that method type."""
    return [
        key.name for key in all_keys().values() if key.section == section and (method is None or not key.methods or method in key.methods)
    ]


def schema_path(where: Where) -> str:
    """A place in a recipe as a path of the schema: ``("data", "eval", 0, "path")`` is ``data.train[].path``."""
    text = ""
    for step in where:
        text += "[]" if isinstance(step, int) else f"{'.' if text else ''}{step}"
    return text.replace("data.eval[]", "data.train[]", 1)


def alternatives(annotation: Any) -> list[str]:
    """The words for each form a value may have."""
    if typing.get_origin(annotation) is Annotated:
        inner, *extras = typing.get_args(annotation)
        said = [extra.words for extra in extras if isinstance(extra, Says)]
        return [said[-1]] if said else alternatives(inner)  # a later Says refines an earlier one
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [words for branch in typing.get_args(annotation) for words in alternatives(branch)]
    if typing.get_origin(annotation) is Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ["a mapping"]
    plain = {bool: ["true", "false"], int: ["a whole number"], float: ["a number"], str: ["text"], type(None): ["null"]}
    return plain.get(annotation, ["a list"])


def phrase(words: list[str]) -> str:
    """``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _keys_of(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(model, include_extras=True)
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        default = REQUIRED if info.default is PydanticUndefined else info.default
        if path == "method":
            yield Key(path, "a mapping with type: full, lora or qlora", default, meanings(model)[name])
            yield from _method_keys()
            continue
        words, choices = phrase(alternatives(hints[name])), tuple(_choices(hints[name]))
        yield Key(path, words, default, meanings(model).get(name, ""), choices=choices)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys_of(info.annotation, f"{path}.")
        elif path == "data.train":
            yield from _keys_of(DataSource, "data.train[].")


def _method_keys() -> Iterator[Key]:
    seen: dict[str, Key] = {}
    for method, model in METHODS.items():
        for key in _keys_of(model, "method."):
            before = seen.get(key.path)
            seen[key.path] = replace(key, methods=(*(before.methods if before else ()), method))
    meaning = "How to train: every weight, adapters, or adapters on a quantised base."
    yield Key("method.type", phrase(list(METHODS)), REQUIRED, meaning, choices=tuple(METHODS))
    yield from (key for key in seen.values() if key.path != "method.type")


def _choices(annotation: Any) -> Iterator[str]:
    """The literal words among the forms of an annotation, not those inside lists and mappings."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _choices(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for branch in typing.get_args(annotation):
            yield from _choices(branch)
    elif origin is Literal:
        yield from (str(value) for value in typing.get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")


_LISTS_OF_TEXT = (
    "method.target_modules",
    "method.target_parameters",
    "method.modules_to_save",
    "compute.regions",
    "compute.aws.subnets",
    "compute.aws.security_groups",
    "compute.aws.fallback_instances",
)
# Words for items of lists and mappings, which are no keys of the schema.
_MEMBERS = {
    "data.train[].columns.*": "the name of a column",
    "data.special_tokens.*": "the text of a token",
    "data.train[]": "a mapping with a path",
    "tracking.report_to[]": "tensorboard, wandb or mlflow",
    "training.adam_betas[]": "a number from 0 to below 1",
    "method.trainable_tokens[]": "a whole number of at least 0",
    **{f"{path}[]": "text on one line" for path in _LISTS_OF_TEXT},
}


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings below annotated names, taken from the class's source."""
    lines = next(node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef))
    found = {}
    for statement, following in itertools.pairwise(lines):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(following, ast.Expr):
            found[statement.target.id] = inspect.cleandoc(str(ast.literal_eval(following.value)))
    return found
