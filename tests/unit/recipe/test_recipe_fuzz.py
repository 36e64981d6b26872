"""Whatever the bytes, the data or the overrides are, only a CloudtuneError comes out of the loader, and never the secret."""

from __future__ import annotations

import io
import json
import traceback
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cloudtune.errors import CloudtuneError, RecipeError
from cloudtune.recipe.keys import all_keys
from cloudtune.recipe.load import load_text
from cloudtune.recipe.rules import conflicts_as_written

GOOD = {
    "version": 1,
    "name": "fuzz",
    "model": {"base": "x/y"},
    "method": {"type": "qlora"},
    "data": {"train": [{"path": "a.jsonl"}]},
}
STRANGE = ["lora_r", "<<", "", "1", "a.b", "é", "\x1b"]
NAMES = [*sorted({part for path in all_keys() for part in path.replace("[]", "").split(".")}), *STRANGE]
WORDS = ["auto", "env", "full", "text", "./x.jsonl", "spot"]
SECRET_FORMS = [
    "secrets: {{HF_TOKEN: {0}}}",
    "secrets: [{0}]",
    "secrets: {0}",
    "secrets: {{A: [{0}]}}",
    "secrets: {{A: {{B: {0}}}}}",
    "hf_token: {0}",
]
PATHS = [path.replace("[]", "[0]") for path in all_keys()]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(WORDS))
nested = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)), max_leaves=20
)
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def survives(text: str | bytes, *overrides: str) -> None:
    """Loading ends well or with a RecipeError whose faults have places; anything else fails the test."""
    try:
        load_text(text, overrides=overrides)
    except CloudtuneError as error:
        refusal = error
    else:
        return
    assert isinstance(refusal, RecipeError)
    assert refusal.faults
    assert str(refusal)
    assert all(fault.line >= 1 and fault.column >= 1 for fault in refusal.faults if fault.file == "<recipe>")


def as_yaml(data: Any) -> str:
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, out)
    return out.getvalue()


@relaxed
@given(st.dictionaries(st.sampled_from(NAMES), nested, max_size=8))
def test_arbitrary_data(data: dict[str, Any]) -> None:
    survives(as_yaml(data))
    survives(json.dumps(data))


@relaxed
@given(st.sampled_from(PATHS), nested)
def test_a_good_recipe_with_anything_anywhere(path: str, value: Any) -> None:
    survives(json.dumps(GOOD), f"{path}={json.dumps(value)}")
    survives(as_yaml(GOOD), f"{path}={value}")


@relaxed
@given(st.text(max_size=300))
def test_arbitrary_text(text: str) -> None:
    survives(text)
    survives("model:\n  base: " + text + "\ndata: [" + text)


@relaxed
@given(st.text(alphabet="abc:-?[]{}&*!|>'\"%@`#, \n\t\r0123.~<=\\\u2028\x85\ufeff", max_size=120))
def test_text_of_yaml_signs(text: str) -> None:
    survives(text)
    survives("version: 1\n" + text)


@relaxed
@given(st.binary(max_size=300))
def test_arbitrary_bytes(raw: bytes) -> None:
    survives(raw)
    survives(b"version: 1\nname: a\n" + raw)


@relaxed
@given(st.lists(st.text(max_size=60), max_size=3))
def test_arbitrary_overrides(overrides: list[str]) -> None:
    survives(json.dumps(GOOD), *overrides)


@relaxed
@given(st.sampled_from(PATHS), st.text(max_size=60))
def test_arbitrary_values_of_overrides(path: str, value: str) -> None:
    survives(json.dumps(GOOD), f"{path}={value}")


@relaxed
@given(nested)
def test_rules_take_values_of_any_type(data: Any) -> None:
    for key in ("training", "data", "method", "compute", "model", "tracking", "output", "task"):
        conflicts_as_written({**GOOD, key: data})


@relaxed
@given(
    st.from_regex(r"[A-Za-z0-9_\-/+=.!$%]{6,40}", fullmatch=True),
    st.sampled_from(SECRET_FORMS),
)
def test_a_secret_is_never_said(secret: str, form: str) -> None:
    marked = f"q7Q{secret}Q7q"
    text = as_yaml(GOOD) + form.format(json.dumps(marked)) + "\n"
    with pytest.raises(RecipeError) as caught:
        load_text(text)
    assert marked not in "".join(traceback.format_exception(caught.value))
    assert marked not in repr(caught.value.faults)
