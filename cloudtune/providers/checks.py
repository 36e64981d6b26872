"""What a request may hold, as a small table language, and the check that names every violation at once. Pure.

The clouds' own libraries check types at most and leave maxima, patterns and word lists to the service, whose answer names
one fault at a time. Each cloud's table is in its ``limits``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtune.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Violation:
    """``path`` is the member's place such as ``Tags[0].Key``; ``what`` never quotes a value, only its kind or size."""

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Text:
    """Text of ``least`` to ``most`` characters that matches ``pattern`` as a whole."""

    most: int
    least: int = 0
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; ``most`` None = the service names no maximum."""

    least: int
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One of a list of words."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    item: Kind
    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping of free keys."""

    key: Text
    value: Text
    most: int


@dataclass(frozen=True, slots=True)
class Members:
    """A structure with named members."""

    members: Mapping[str, Kind]
    required: frozenset[str] = field(default_factory=frozenset)


Kind = Text | Whole | Word | Flag | Items | Pairs | Members


def members(required: str, **parts: Kind) -> Members:
    """A structure; ``required``: names that must be there, separated by spaces."""
    return Members(parts, frozenset(required.split()))


def words(text: str) -> Word:
    """A list of words, separated by spaces."""
    return Word(frozenset(text.split()))


def with_fixes(found: Iterable[tuple[str, str]], fixes: Mapping[str, str]) -> tuple[Violation, ...]:
    """(path, what) → violations; the longest beginning of the path that ``fixes`` knows says what to do."""
    return tuple(Violation(path, what, _fix(path, fixes)) for path, what in found)


def refuse(service: str, found: tuple[Violation, ...]) -> None:
    """Raises RejectedError, code ``request-limits``, that lists every violation with its path and the fixes; nothing without one."""
    if not found:
        return
    count = f"{len(found)} limit{'s' if len(found) != 1 else ''}"
    raise RejectedError(
        f"{service} would refuse the request: it breaks {count}: " + " | ".join(f"{one.path}: {one.what}" for one in found),
        code="request-limits",
        hint="; ".join(dict.fromkeys(one.fix for one in found)),
    )


def check(kind: Kind, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, what) of every way in which ``value`` is not of ``kind``; what never quotes a value."""
    yield from _check(kind, value, path)


def _fix(path: str, fixes: Mapping[str, str]) -> str:
    plain = re.sub(r"\[\d+\]", "", path)
    return fixes[max((start for start in fixes if plain.startswith(start)), key=len)]


def _kind(value: object) -> str:
    return {str: "text", bool: "true or false", int: "a whole number", float: "a fraction", dict: "a mapping", list: "a list"}.get(
        type(value), "nothing" if value is None else type(value).__name__
    )


_WANTED: Final[dict[type, tuple[type, str]]] = {
    Text: (str, "text"), Word: (str, "text"), Whole: (int, "a whole number"), Flag: (bool, "true or false"),
    Items: (list, "a list"), Pairs: (dict, "a mapping"), Members: (dict, "a mapping"),
}  # fmt: skip


def _check(kind: Kind, value: Any, path: str) -> Iterator[tuple[str, str]]:
    wanted, name = _WANTED[type(kind)]
    if not _is(value, wanted):
        yield path, f"is {_kind(value)}, must be {name}"
        return
    match kind:
        case Text():
            yield from ((path, what) for what in _text(kind, value))
        case Word() if value not in kind.words:
            yield (
                path,
                "is a word that the service does not know"
                + (f", must be one of {', '.join(sorted(kind.words))}" if len(kind.words) < 10 else ""),
            )
        case Whole():
            yield from ((path, what) for what in _range("is", value, kind.least, kind.most))
        case Items():
            yield from ((path, what) for what in _range("has", len(value), kind.least, kind.most, "entries"))
            for index, item in enumerate(value):
                yield from _check(kind.item, item, f"{path}[{index}]")
        case Pairs():
            yield from ((path, what) for what in _range("has", len(value), 0, kind.most, "entries"))
            for index, (key, item) in enumerate(value.items()):
                yield from _check(kind.key, key, f"{path}.key[{index}]")
                yield from _check(kind.value, item, f"{path}.{str(key)[:60]}")
        case Members():
            yield from _structure(kind, value, path)


def _is(value: Any, wanted: type) -> bool:
    """Of this very type: isinstance would take true for a number."""
    return type(value) is wanted


def _structure(kind: Members, value: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    start = f"{path}." if path else ""
    for name in sorted(kind.required - value.keys()):
        yield f"{start}{name}", "is missing"
    for name, inner in value.items():
        if name in kind.members:
            yield from _check(kind.members[name], inner, f"{start}{name}")
        else:
            yield f"{start}{str(name)[:60]}", "is no member that we know"


def _text(kind: Text, value: str) -> Iterator[str]:
    wrong_size = list(_range("has", len(value), kind.least, kind.most, "characters"))
    yield from wrong_size
    # One fault is enough for one text, and some of these patterns are slow on what is far too long.
    if not wrong_size and kind.pattern and not re.fullmatch(kind.pattern, value):
        yield "is text of another form than the service takes"


def _range(verb: str, size: int, least: int, most: int | None, of: str = "") -> Iterator[str]:
    counted = f"{verb} {size} {of}".rstrip()
    if size < least:
        yield f"{counted}, must be at least {least}"
    if most is not None and size > most:
        yield f"{counted}, must be at most {most}"
