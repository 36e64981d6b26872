"""What is made from the schema: the editor's JSON schema, the page docs/recipe.md, init's template, the digest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from cloudtune.errors import UsageError
from cloudtune.recipe import foreign
from cloudtune.recipe.digest import canonical_json, recipe_digest
from cloudtune.recipe.keys import all_keys, children
from cloudtune.recipe.load import load_file, load_text
from cloudtune.recipe.reference import reference_text
from cloudtune.recipe.schema import json_schema
from cloudtune.recipe.template import recipe_text

ROOT = Path(__file__).resolve().parents[3]
GOOD = sorted((ROOT / "tests" / "data" / "recipes").glob("*.yaml"))
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SMALL: dict[str, Any] = {
    "version": 1,
    "name": "small",
    "model": {"base": "x"},
    "method": {"type": "lora"},
    "data": {"train": [{"path": "x"}]},
}


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "discriminator" not in json.dumps(SCHEMA)
    assert json.dumps(SCHEMA) == json.dumps(json_schema())


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_schema_accepts_good_recipes(path: Path) -> None:
    data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    VALIDATOR.validate(json.loads(json.dumps(data)))
    load_file(path)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_r": 3},
        {"version": 2},
        {"name": "Not Good"},
        {"model": {"base": "x", "foo": 1}},
        {"method": {"type": "full", "r": 3}},
        {"method": {"type": "lora", "quantization": "nf4"}},
        {"method": {"type": "dora"}},
        {"method": {"r": 3}},
        {"data": {"train": []}},
        {"data": {"train": [{"path": "x", "foo": 1}]}},
        {"data": {"train": [{"path": "x"}], "eval": 2}},
        {"training": {"epochs": 0}},
        {"training": {"epochs": "3"}},
        {"compute": {"aws": {"foo": 1}}},
        {"secrets": {"HF_TOKEN": "hf_abc"}},
        {"secrets": {"1BAD": "env"}},
    ],
    ids=json.dumps,
)
def test_schema_and_loader_refuse_the_same(change: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(SMALL)
    assert not VALIDATOR.is_valid({**SMALL, **change})
    with pytest.raises(Exception, match=r"is not a key|is |does not name"):
        load_text(json.dumps({**SMALL, **change}))


def test_every_property_is_described() -> None:
    for name, model in {"Recipe": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, body in model["properties"].items():
            assert body.get("description") or "$ref" in body or (key == "type" and name.endswith("Method")), f"{name}.{key}"


def test_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == reference_text(), "write it again with: python -m cloudtune.recipe.reference > docs/recipe.md"
    for key in all_keys().values():
        assert f"`{key.name}`" in page or f"## {key.path}" in page, key.path


def test_every_key_has_words_and_a_meaning() -> None:
    for key in all_keys().values():
        assert key.expected, key.path
        assert key.meaning, key.path
    assert len(all_keys()) >= 90


def test_foreign_names_lead_to_keys_that_exist() -> None:
    known = set(all_keys())
    assert set(foreign.RENAMED.values()) <= known
    assert {f"{section}.{name}" for (section, _), name in foreign.RENAMED_IN.items()} <= known
    assert all(path in known or path == "tracking.report_to[]" for path in foreign.VALUES)
    assert not set(foreign.RENAMED) & set(foreign.EXPLAINED)
    assert not set(foreign.RENAMED) & {key.name for key in all_keys().values() if key.section == ""}
    for path, words in foreign.VALUES.items():
        allowed = all_keys()[path].choices if path in known else ("tensorboard", "wandb", "mlflow")
        assert set(words.values()) <= set(allowed), path


def test_children_of_a_method() -> None:
    assert children("method", "full") == ["type"]
    assert "quantization" not in children("method", "lora")
    assert "quantization" in children("method", "qlora")
    assert "subnets" in children("compute.aws")


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_template_is_a_valid_recipe(method: str) -> None:
    text = recipe_text("my-bot", method=method, model="./models/mine", data="./my rows: all.jsonl")
    recipe = load_text(text).recipe
    assert (recipe.name, recipe.method.type, recipe.model.base) == ("my-bot", method, "./models/mine")
    assert recipe.data.train[0].path == "./my rows: all.jsonl"
    assert max(len(line) for line in text.splitlines()) <= 110
    uncommented = text.replace("# columns", "columns").replace("# micro", "micro").replace("# max_", "max_").replace("# secrets", "secrets")
    filled = load_text(uncommented).recipe
    assert filled.budget.max_usd == 25
    assert filled.secrets == {"HF_TOKEN": "env"}


def test_template_refuses_what_no_recipe_can_hold() -> None:
    for arguments in ({"name": "Not Good"}, {"method": "dora"}, {"model": ""}, {"row_format": "alpaca"}, {"model": "a b c"}):
        with pytest.raises(UsageError):
            recipe_text(**arguments)


def test_equal_recipes_have_equal_digests() -> None:
    first = load_text(json.dumps(SMALL)).recipe
    assert recipe_digest(first) == recipe_digest(load_text(json.dumps(dict(reversed(SMALL.items())))).recipe)
    spelled = {**SMALL, "training": {"weight_decay": -0.0, "batch_size": 16}, "method": {"type": "lora", "alpha": 32}}
    assert recipe_digest(load_text(json.dumps(spelled)).recipe) == recipe_digest(first)
    assert recipe_digest(type(first).model_validate_json(first.model_dump_json())) == recipe_digest(first)
    other = load_text(json.dumps({**SMALL, "training": {"seed": 7}})).recipe
    assert recipe_digest(other) != recipe_digest(first)
    assert len(recipe_digest(first)) == 64
    assert json.loads(canonical_json(first))["method"]["r"] == 16


def test_the_digest_does_not_change_between_releases_unnoticed() -> None:
    """Stored plans name recipes by this digest; when a default or the form changes, say so in the changelog and here."""
    assert recipe_digest(load_text(json.dumps(SMALL)).recipe) == "c005364e3ddf610ddbf602d24f3145d51780e6e3a034192cc71f1e19b4b83190"


def test_the_page_can_be_written_from_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "cloudtune.recipe.reference"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == reference_text()
