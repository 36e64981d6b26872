"""The recipe of a bare model, made without pydantic, says what the recipe itself says; and so does the command that uses it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cloudtune.cli.bare import Question, base_of, question
from cloudtune.cli.estimate import BARE
from cloudtune.recipe.load import load_text
from cloudtune.recipe.sketch import Values, method, sketch
from tests.e2e.command import cloudtune


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a sketch by its dotted name."""
    if isinstance(values, Values):
        return {name: inner for key, value in vars(values).items() for name, inner in flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): values}


def of_recipe(recipe: Any, name: str) -> Any:
    for piece in name.split("."):
        recipe = getattr(recipe, piece)
    return recipe


def test_every_value_is_the_recipes_own() -> None:
    recipe = load_text(BARE.format(base="owner/name")).recipe
    known = flat(sketch("owner/name"))
    assert len(known) > 12
    method_sketch = known.pop("method")
    assert known == {name: of_recipe(recipe, name) for name in known}
    assert {item.name: getattr(method_sketch, item.name) for item in fields(method_sketch)} == recipe.method.model_dump()


@pytest.mark.parametrize("word", ["lora", "qlora"])
def test_a_methods_defaults_are_the_recipes(word: Any) -> None:
    text = BARE.format(base="owner/name").replace("{type: qlora}", f"{{type: {word}}}")
    real = load_text(text).recipe.method
    assert {name: getattr(method(word), name) for name in type(real).model_fields} == real.model_dump()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["estimate", "owner/name"], Question("owner/name")),
        (["estimate", "--json", "owner/name"], Question("owner/name", as_json=True)),
        (["estimate", "owner/name", "--gpu", "L4", "--json"], Question("owner/name", "L4", as_json=True)),
        (["estimate", "builtin:quickstart"], Question("builtin:quickstart")),
        (["estimate", "owner/name", "--explain"], None),
        (["estimate", "owner/name", "--gpu"], None),
        (["estimate", "owner/name", "--gpu", "--json"], None),
        (["estimate", "owner/name", "--help"], None),
        (["estimate", "owner/name", "--set", "data.max_length=9"], None),
        (["estimate", "owner/name", "out.png"], None),
        (["estimate", "https://huggingface.co/owner/name"], None),
        (["estimate", "huggingface.co/owner"], None),
        (["estimate", "recipe.yaml"], None),
        (["estimate", "builtin:other"], None),
        (["estimate", "s3://bucket/folder"], None),
        (["estimate"], None),
        (["plan", "owner/name"], None),
        ([], None),
    ],
)
def test_only_the_bare_question_is_answered_the_short_way(arguments: list[str], expected: Question | None) -> None:
    assert question(arguments) == expected


def test_a_folder_is_named_as_a_recipe_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_of("model") == base_of("./model") == "./model"
    assert base_of(str(tmp_path / "model")) == str(tmp_path / "model")
    (tmp_path / "model" / "recipe").write_text("version: 1")
    assert base_of("model/recipe") is None


@pytest.mark.parametrize("extra", [(), ("--json",), ("--gpu", "L4", "--json"), ("--gpu", "nothing")])
def test_the_short_way_says_what_the_long_way_says(tmp_path: Path, extra: tuple[str, ...]) -> None:
    short = cloudtune("estimate", "Qwen/Qwen3-0.6B", *extra, folder=tmp_path)
    long = cloudtune("estimate", "Qwen/Qwen3-0.6B", *extra, "--set", "name=estimate", folder=tmp_path)
    assert (short.code, short.out, short.err) == (long.code, long.out, long.err)
    if extra == ("--json",):
        assert [item["name"] for item in json.loads(short.out)["methods"]] == ["full", "LoRA", "8-bit", "QLoRA"]
