"""YAML 1.2 text into plain data with the position of every key and value. Opens no file, knows no recipe.

The text is read as parser events and built here, so that hostile input is refused while it is read: size,
depth, the number of values after aliases are expanded. Scalars follow the core schema of YAML 1.2.2 (section
10.3): ``2e-4`` is a number, ``no`` is text. Faults that leave the rest readable are collected, others raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cloudtune.errors import Fault, RecipeError
from cloudtune.recipe.paths import Where, dotted, show_key

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_VALUES = 20_000

_CORE = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_NOT_A_RECIPE = "give the recipe's own file, unpacked"
_MAX_DIGITS = 400  # longer integers have no float and Python refuses to read them at 4300 digits


@dataclass(frozen=True, slots=True)
class Mark:
    """A position: ``origin`` is the file, or the ``--set`` option that the value came from (then line is 0)."""

    origin: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value stand. List items and the document itself have no key of their own."""

    key: Mark
    value: Mark


@dataclass(slots=True)
class Document:
    """Plain data (dict, list, text, number, bool, None), the place of everything in it, and faults found on the way."""

    data: Any
    places: dict[Where, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class _Node:
    """A value before aliases are expanded. ``value``: scalar, list of nodes, or list of (key, mark, node)."""

    kind: str
    mark: Mark
    value: Any = None
    in_block: bool = False
    size: int = 1
    height: int = 1
    complete: bool = False


def read_document(raw: bytes | str, file: str) -> Document:
    """Read one YAML document. Raises RecipeError when it cannot be read as a whole."""
    text = _text(raw, file)
    builder = _Builder(file)
    root = builder.build(text)
    document = Document(None, faults=builder.faults)
    document.data = _unfold(root, (), root.mark, document.places)
    return document


def _text(raw: bytes | str, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise _refusal(file, 1, 1, f"the file is larger than {MAX_BYTES // 1024} KiB", "a recipe of a few kilobytes")
    text = raw if isinstance(raw, str) else _decoded(raw, file)
    text = text.removeprefix("\ufeff")
    bad = _UNPRINTABLE.search(text)
    if bad:
        from cloudtune.recipe.syntax import unprintable_fault

        raise RecipeError([unprintable_fault(text, bad.start(), file)])
    return text


def _decoded(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise _refusal(file, 1, 1, "the file is written in UTF-16", "UTF-8 text", "save it again as UTF-8") from None
        if raw[:2] == b"\x1f\x8b" or b"\0" in raw[:1024]:
            raise _refusal(file, 1, 1, "this looks like a binary file", "UTF-8 text", _NOT_A_RECIPE) from None
        before = raw[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        what = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        raise _refusal(file, line, column, what, "UTF-8 text", "save the file again as UTF-8") from None


def _refusal(file: str, line: int, column: int, what: str, expected: str = "", hint: str = "") -> RecipeError:
    return RecipeError([Fault("", what, expected, hint, file, line, column)])


class _Builder:
    """Builds nodes from parser events; one per text."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self._anchors: dict[str, _Node] = {}
        self._values = 0

    def build(self, text: str) -> _Node:
        """The root node of the only document in ``text``."""
        events = _events(text, self.file, self.faults)
        root = _Node("scalar", Mark(self.file, 1, 1))
        documents = 0
        for event in events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    self._stop(event, (), "a second document starts here", "one recipe per file", "put it into a file of its own")
            elif name not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                root = self._node(event, events, (), 1)
        return root

    def _node(self, event: Any, events: Iterator[Any], where: Where, depth: int) -> _Node:
        kind = type(event).__name__
        if depth > MAX_DEPTH:
            self._stop(event, where, f"nested deeper than {MAX_DEPTH} levels", "a recipe, which has at most six")
        if kind == "AliasEvent":
            return self._alias(event, where, depth)
        node = _Node(kind, self._mark(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._count(1, event, where)
        if kind == "ScalarEvent":
            node.value = self._scalar(event, where)
        else:
            node.in_block = not event.flow_style
            self._check_collection_tag(event, where)
            fill = self._fill_mapping if kind == "MappingStartEvent" else self._fill_list
            fill(node, events, where, depth)
        node.complete = True
        return node

    def _alias(self, event: Any, where: Where, depth: int) -> _Node:
        target = self._anchors.get(event.anchor)
        if target is None:
            self._stop(event, where, f"*{event.anchor} refers to nothing above", "", "text that starts with * needs quotes")
        if not target.complete:
            self._stop(event, where, f"*{event.anchor} refers to a value that contains itself", "a value without loops")
        self._count(target.size, event, where)
        if depth + target.height > MAX_DEPTH:
            self._stop(event, where, f"nested deeper than {MAX_DEPTH} levels", "a recipe, which has at most six")
        return target

    def _fill_list(self, node: _Node, events: Iterator[Any], where: Where, depth: int) -> None:
        node.value = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                return
            child = self._node(event, events, (*where, len(node.value)), depth + 1)
            node.value.append(child)
            self._grow(node, child)

    def _fill_mapping(self, node: _Node, events: Iterator[Any], where: Where, depth: int) -> None:
        node.value = []
        first: dict[str, Mark] = {}
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                return
            mark = self._mark(event)
            key = self._key(self._node(event, events, where, depth + 1), mark, where)
            value_event = next(events)
            child = self._node(value_event, events, (*where, key or "?"), depth + 1)
            if child.kind == "ScalarEvent" and value_event.__class__.__name__ == "ScalarEvent" and _is_empty(value_event):
                child.mark = mark
            self._grow(node, child)
            if key is None:
                continue
            if key in first:
                what = f"{dotted((*where, key))} is given a second time"
                self._fault((*where, key), mark, what, "", f"it is already on line {first[key].line}; keep one of them")
                continue
            first[key] = mark
            node.value.append((key, mark, child))

    def _key(self, node: _Node, mark: Mark, where: Where) -> str | None:
        if isinstance(node.value, str) and node.kind == "ScalarEvent":
            return node.value
        if node.kind != "ScalarEvent":
            self._fault(where, mark, "a list or mapping is used as a key", "a name", "text with [ or { needs quotes")
        else:
            shown = "null" if node.value is None else str(node.value).lower()
            self._fault(where, mark, f"the key {show_key(shown)} is not text", "a name", "put it in quotes if it is meant as a name")
        return None

    def _grow(self, node: _Node, child: _Node) -> None:
        node.size += child.size
        node.height = max(node.height, child.height + 1)

    def _count(self, values: int, event: Any, where: Where) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._stop(event, where, f"more than {MAX_VALUES} values, repetitions through aliases counted", "a recipe of a few dozen")

    def _scalar(self, event: Any, where: Where) -> Any:
        tag = str(event.ctag) if event.ctag is not None else ""
        if not tag:
            return resolve_scalar(event.value) if event.implicit[0] else event.value
        if tag in ("!", f"{_CORE}str"):
            return event.value
        value = resolve_scalar(event.value)
        if tag.removeprefix(_CORE) not in _core_names(value):
            self._fault(where, self._mark(event), _TAG_WHAT, "a plain value", "remove the word that starts with !")
        return value

    def _check_collection_tag(self, event: Any, where: Where) -> None:
        if event.ctag is not None and str(event.ctag) not in ("!", f"{_CORE}map", f"{_CORE}seq"):
            self._fault(where, self._mark(event), _TAG_WHAT, "a plain value", "remove the word that starts with !")

    def _mark(self, event: Any) -> Mark:
        return Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _fault(self, where: Where, mark: Mark, what: str, expected: str = "", hint: str = "") -> None:
        self.faults.append(Fault(dotted(where), what, expected, hint, mark.origin, mark.line, mark.column))

    def _stop(self, event: Any, where: Where, what: str, expected: str = "", hint: str = "") -> NoReturn:
        self._fault(where, self._mark(event), what, expected, hint)
        raise RecipeError(self.faults)


_TAG_WHAT = "a YAML tag stands before this value"


def _core_names(value: Any) -> tuple[str, ...]:
    """The standard tags that may stand before ``value``."""
    if value is None or isinstance(value, bool):
        return ("null",) if value is None else ("bool",)
    return ("int", "float") if isinstance(value, int) else ("float",) if isinstance(value, float) else ()


def _is_empty(event: Any) -> bool:
    return event.value == "" and event.implicit[0] and event.style is None


def _events(text: str, file: str, earlier: list[Fault]) -> Iterator[Any]:
    """ruamel.yaml's parser events, lazily; whatever goes wrong in it becomes a RecipeError in our words."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        yield from yaml.parse(text)
    except (YAMLError, ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        # The parser itself stumbles over some broken inputs; for the author that is broken YAML too.
        from cloudtune.recipe.syntax import syntax_faults

        raise RecipeError([*earlier, *syntax_faults(error, text, file)]) from None


def resolve_scalar(text: str) -> Any:
    """An unquoted scalar by YAML 1.2's core schema: None, bool, int, float or the text itself."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else float(text[:_MAX_DIGITS])
    for pattern, base in ((_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return int(text[2:], base) if len(text) <= _MAX_DIGITS else float("inf")
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float("-inf" if text.startswith("-") else "inf")
    return float("nan") if _NAN.fullmatch(text) else text


def _unfold(node: _Node, where: Where, key: Mark, places: dict[Where, Place]) -> Any:
    """Data without aliases (each use a copy of its own) and the place of every value."""
    # A block collection starts on the line below its key; its key is where people look.
    places[where] = Place(key, key if node.in_block else node.mark)
    if node.kind == "MappingStartEvent":
        return {name: _unfold(child, (*where, name), mark, places) for name, mark, child in node.value}
    if node.kind == "SequenceStartEvent":
        return [_unfold(child, (*where, index), child.mark, places) for index, child in enumerate(node.value)]
    return node.value
