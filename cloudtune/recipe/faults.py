"""Pydantic's complaints about a recipe as faults in our words: what stands there, what is expected, how to write it. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from cloudtune.errors import Fault
from cloudtune.recipe import foreign
from cloudtune.recipe.keys import METHODS, REQUIRED, all_keys, children, choices_at, expected_words, schema_path
from cloudtune.recipe.paths import Where, dotted, looks_secret, show_key, show_value

_NUMBER_WORDS = re.compile(r"a (whole )?number|a fraction")
_TEXT_WORDS = re.compile(r"text|path|name|type|id\b|letters")
_LOOSE_NUMBER = re.compile(r"[-+]?[0-9][0-9_,]*(\.[0-9_]+)?([eE][-+]?[0-9]+)?")
_WITH_UNIT = re.compile(r"[$€£]?\s?[0-9]+(\.[0-9]+)?\s?[A-Za-z$€£]{0,7}(?<![0-9])|[$€£]\s?[0-9]+(\.[0-9]+)?")
_GLUED = re.compile(r"(\w+)\s*([:=])")
_YES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
# After these paths pydantic's location names the branch of a union, which is no key.
_BRANCHED = ((("method",), set(METHODS)), (("data", "eval"), {"fraction", "sources", "none"}))
_SHAPE_HINTS = {
    "method": "write method: {type: qlora}",
    "model": "write model: {base: HUB_ID}",
    "data": "write data: {train: [{path: ./data/train.jsonl}]}",
    "data.train": "write train: [{path: ./data/train.jsonl, format: chat}]",
    "data.train[]": "write - path: ./data/train.jsonl",
    "data.eval": "write eval: 0.05, or eval: [{path: ./data/eval.jsonl}]",
    "secrets": "write secrets: {HF_TOKEN: env} and keep the value in the environment",
    "tracking.report_to": "write report_to: [wandb]",
    "training": "write training: {epochs: 3}",
    "compute": "write compute: {provider: aws}",
    "budget": "write budget: {max_usd: 25}",
    "tracking": "write tracking: {report_to: [wandb]}",
    "output": "write output: {dir: ./runs}",
    "training.adam_betas": "write adam_betas: [0.9, 0.999]",
    "version": "this release reads version: 1",
    "compute.regions": "write regions: [us-east-1]",
    "data.train[].columns": "write columns: {messages: YOUR_COLUMN}",
}

MAX_TRANSLATED = 200  # nobody reads more, and each costs a search for names alike

Found = tuple[Where, bool, Fault]
"""Place, whether the key rather than the value is at fault, and the fault without position."""


def translate(errors: Sequence[Any], data: Any) -> list[Found]:
    """Faults for pydantic's error list over ``data``; secondary ones are left out, and all beyond ``MAX_TRANSLATED``."""
    places = [_place(error) for error in errors[:MAX_TRANSLATED]]
    found = []
    for error, where in zip(errors, places, strict=False):
        if error["type"] == "too_short" and any(len(other) > len(where) and other[: len(where)] == where for other in places):
            continue  # pydantic counts only the items that passed
        found.append(_fault(error, where, data))
    meant = {(where[:-1], fault.hint) for where, _, fault in found if where and fault.hint.startswith("did you mean")}
    # A misspelt key is one fault, not a wrong key and a missing one.
    return [item for item in found if not ((item[0], f"did you mean {item[2].path.rpartition('.')[2]}?") in meant and _is_missing(item[2]))]


def _is_missing(fault: Fault) -> bool:
    return fault.what.endswith(" is missing")


def value_at(data: Any, where: Where) -> Any:
    """The value at a place, None when there is none."""
    for step in where:
        if isinstance(step, int):
            data = data[step] if isinstance(data, (list, tuple)) and step < len(data) else None
        else:
            data = data.get(step) if isinstance(data, dict) else None
    return data


def _place(error: Any) -> Where:
    where: Where = tuple(step for step in error["loc"] if step != "[key]")
    for prefix, branches in _BRANCHED:
        size = len(prefix)
        if where[:size] == prefix and len(where) > size and where[size] in branches:
            where = where[:size] + where[size + 1 :]
    return where


def _fault(error: Any, where: Where, data: Any) -> Found:
    match error["type"]:
        case "missing" if isinstance(where[-1], int):  # a list that is too short
            return where[:-1], False, _wrong_value(where[:-1], value_at(data, where[:-1]))
        case "missing":
            return _missing(where)
        case "union_tag_not_found":
            return _missing((*where, "type"))
        case "extra_forbidden" | "invalid_key":
            return where, True, unknown_key(where, data)
        case "union_tag_invalid":
            return (*where, "type"), False, _wrong_value((*where, "type"), value_at(data, (*where, "type")))
    if error["loc"][-1:] == ("[key]",):
        return where, True, _wrong_key(where)
    if where[:1] == ("secrets",) and len(where) == 2:
        return where, value_at(data, where) is None, _literal_secret(where, value_at(data, where))
    return where, False, _wrong_value(where, value_at(data, where), error.get("ctx") or {})


def _missing(where: Where) -> Found:
    path = schema_path(where)
    hint = _SHAPE_HINTS.get(path, "")
    if path == "method.type":
        hint = "write type: qlora, lora or full"
    return where[:-1], True, Fault(dotted(where), f"{dotted(where)} is missing", expected_words(path), hint)


def _wrong_key(where: Where) -> Fault:
    section = dotted(where[:-1])
    expected = "pad, eos, bos, unk or end_of_turn" if where[-2:-1] == ("special_tokens",) else "a name of letters, digits and underscores"
    expected = "text on one line" if where[-2:-1] == ("columns",) else expected
    return Fault(dotted(where), f"{show_key(str(where[-1]))} is not a key that {section} can have", expected)


def _literal_secret(where: Where, value: Any) -> Fault:
    name = show_key(str(where[1]))
    if value is None:
        what = "secrets has a name without a source"
        return Fault("secrets", what, expected_words("secrets"), _SHAPE_HINTS["secrets"])
    hint = f"write {name}: env and set the variable {name} where you launch; a value never belongs in a recipe"
    return Fault(dotted(where), f"{dotted(where)} does not name a source", "env, aws:secretsmanager:NAME or gcp:secretmanager:NAME", hint)


def _wrong_value(where: Where, value: Any, context: dict[str, Any] | None = None) -> Fault:
    path = schema_path(where)
    expected = expected_words(path) or "a value of another kind"
    most = (context or {}).get("le")
    if most is not None and str(most) not in expected:
        expected = f"{expected}, at most {most}"
    shown = "no mapping" if path == "secrets" else show_value(value)
    return Fault(dotted(where), f"{dotted(where)} is {shown}", expected, _value_hint(path, value, expected))


def _value_hint(path: str, value: Any, expected: str) -> str:
    key = all_keys().get(path)
    if value is None and key and key.default is not REQUIRED:
        return "remove the line to take the default"
    if path == "data.eval":
        return _eval_hint(value)
    if path == "data.train" and isinstance(value, dict) and "path" in value:
        return "put '- ' before its first key: train is a list of sources"
    if path == "tracking.report_to" and value in ("none", "None", False):
        return "write report_to: []"
    if path == "tracking.report_to" and isinstance(value, str) and value.lower() in choices_at("tracking.report_to[]"):
        return f"write report_to: [{value.lower()}]"
    if path in _SHAPE_HINTS:
        return (_glued_hint(value, path) if isinstance(value, str) else "") or _SHAPE_HINTS[path]
    if isinstance(value, str):
        return _name_hint(value) if path == "name" else _text_hint(path, value.strip(" "), expected)
    return _number_or_list_hint(value, expected)


def _number_or_list_hint(value: Any, expected: str) -> str:
    if isinstance(value, list) and "a list" in expected and any(not isinstance(item, str) for item in value):
        return "every item must be text; put numbers in quotes"
    if isinstance(value, list) and expected.startswith("a mapping"):
        return "remove the '- ' before its keys"
    if expected.startswith("a list") and isinstance(value, (int, float)):
        return f"write [{show_value(value)}]"
    if isinstance(value, float) and expected.startswith("a whole") and value.is_integer():
        return f"write {value:.0f}"
    if isinstance(value, (int, float)) and _TEXT_WORDS.search(expected):
        return "put it in quotes"
    return ""


def _glued_hint(text: str, section: str) -> str:
    """``base:x`` and ``base = x`` where ``base: x`` was meant, by the names of the section's keys."""
    match = _GLUED.match(text)
    if not match or match[1] not in children(section):
        return ""
    return f"put a space after {match[1]}:" if match[2] == ":" else f"write {match[1]}: instead of {match[1]} ="


def _name_hint(name: str) -> str:
    legal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    return f"write {legal}" if legal and not looks_secret(name) else ""


def _eval_hint(value: Any) -> str:
    if value in (0, False):
        return "write null, or nothing, for no evaluation"
    if isinstance(value, (int, float)):
        return "a number of rows cannot be given; write the fraction of the training rows"
    return _SHAPE_HINTS["data.eval"]


def _text_hint(path: str, text: str, expected: str) -> str:
    choices = choices_at(path)
    known = (foreign.value_here(path, text), *(word for word in (text.lower(), foreign.normal(text)) if word in choices))
    ours = next((word for word in known if word), None)
    if ours == text:
        return "remove the quotes"
    if ours:
        return f"write {ours}"
    if "true" in choices and text.lower() in _YES:
        return f"write {_YES[text.lower()]}: YAML 1.2 knows no yes and no"
    close = difflib.get_close_matches(text.lower(), choices, 1)
    if close:
        return f"did you mean {close[0]}?"
    if _NUMBER_WORDS.search(expected):
        return _number_hint(text)
    if not text.isprintable():
        return "it holds a line break or another character that cannot be printed"
    if "a list" in expected and not looks_secret(text) and len(text) < 60:
        return f"write [{', '.join(part for part in re.split(r'[, ]+', text) if part)}]"
    return ""


def _number_hint(text: str) -> str:
    if text.endswith("%"):
        return "write a fraction, such as 0.05 for 5 %"
    if _WITH_UNIT.fullmatch(text):
        return "write the number in full" if text[-1] in "kKmM" else "write the number without a unit"
    if not _LOOSE_NUMBER.fullmatch(text) or len(text) > 30:
        return ""
    bare = text.replace("_", "").replace(",", "")
    return "remove the quotes" if bare == text else f"write {bare}" if "_" in text else "write the number without commas"


def unknown_key(where: Where, data: Any) -> Fault:
    """The fault for a key that the schema does not have, with where the author may have meant it to go."""
    name = str(where[-1])
    section = dotted(where[:-1])
    what = f"{show_key(name)} is not a key of {section}" if section else f"{show_key(name)} is not a key of a recipe"
    return Fault(dotted(where), what, "", key_hint(where, data))


def key_hint(where: Where, data: Any) -> str:  # noqa: PLR0911 - from the surest guess to the weakest
    """Where an unknown key belongs, or which known one it resembles."""
    name, section = str(where[-1]), schema_path(where[:-1])
    if section not in ("", *all_keys(), "data.train[]"):
        return ""
    glued = _glued_hint(name, section)
    if glued:
        return glued
    method = value_at(data, ("method", "type")) if section == "method" else None
    known = children(section, method if method in METHODS else None)
    plain = foreign.normal(name)
    if plain in known:
        return f"did you mean {plain}?"
    if section == "method" and f"method.{plain}" in all_keys():
        return f"{plain} belongs to method.type: {' or '.join(all_keys()[f'method.{plain}'].methods)}"
    within = _renamed_in(section, plain)
    if within:
        return f"did you mean {within}?"
    elsewhere = [key.path for key in all_keys().values() if key.name == plain]
    if len(elsewhere) == 1 or plain in children("training"):
        home = elsewhere[0] if len(elsewhere) == 1 else f"training.{plain}"
        return f"it belongs under {home.rpartition('.')[0]}: {home}" if "." in home else f"it belongs at the top level: {home}"
    close = difflib.get_close_matches(plain, known, 1, 0.8)
    if close:
        return f"did you mean {close[0]}?"
    if plain in foreign.RENAMED:
        return f"here it is called {foreign.RENAMED[plain]}"
    if plain in foreign.EXPLAINED:
        return foreign.EXPLAINED[plain]
    return _resembling(plain, known, section)


def _renamed_in(section: str, plain: str) -> str:
    if (section, plain) in foreign.RENAMED_IN:
        return foreign.RENAMED_IN[section, plain]
    target = foreign.RENAMED.get(plain, "")
    return target.rpartition(".")[2] if target and target.rpartition(".")[0] == section else ""


def _resembling(plain: str, known: list[str], section: str) -> str:
    close = difflib.get_close_matches(plain, known, 1, 0.6)
    if close:
        return f"did you mean {close[0]}?"
    names = [*{key.name: None for key in all_keys().values()}, *foreign.RENAMED]
    far = difflib.get_close_matches(plain, names, 1, 0.84)
    if far:
        paths = [key.path for key in all_keys().values() if key.name == far[0]]
        return f"did you mean {foreign.RENAMED.get(far[0]) or paths[0]}?"
    if not known:
        return ""
    return f"known keys: {', '.join(known)}" if len(known) <= 12 else f"see docs/recipe.md for the keys of {section or 'a recipe'}"
