"""Google's list filters (``labels.run=x AND NOT state="JOB_STATE_FAILED"``) as tests of values.

The grammar of google.aip.dev/160 without its functions. Serves the list of jobs and the log; the caller says what a field's value is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from cloudtune.standins.gcp.answers import ApiError

Lookup = Callable[[str], Any]
Test = Callable[[Lookup], bool]
_TOKEN = re.compile(r'\s*(?:(?P<mark>\(|\)|!=|<=|>=|=|<|>|:|-(?=[A-Za-z"(]))|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[^\s()=<>:!"]+))')
_SIGNS = ("=", "!=", "<", "<=", ">", ">=", ":")


def parse_filter(text: str) -> Test:
    """A test over a lookup of field names. An empty filter passes everything. Raises ApiError for what is no filter."""
    tokens = _tokens(text)
    if not tokens:
        return lambda _: True
    reader = _Reader(text, tokens)
    test = reader.either()
    if reader.at < len(tokens):
        raise _invalid(text)
    return test


def _invalid(text: str) -> ApiError:
    return ApiError("INVALID_ARGUMENT", f"Invalid list filter: {text}")


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text): mark, quoted or word."""
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _invalid(text)
        kind = match.lastgroup or ""
        value = match[kind]
        found.append((kind, re.sub(r"\\(.)", r"\1", value[1:-1]) if kind == "quoted" else value))
        at = match.end()
    return found


@dataclass
class _Reader:
    """Recursive descent: either → both → one → comparison."""

    text: str
    tokens: list[tuple[str, str]]
    at: int = 0

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("", "")

    def _take(self, kind: str, value: str) -> bool:
        if self._peek() == (kind, value):
            self.at += 1
            return True
        return False

    def either(self) -> Test:
        tests = [self.both()]
        while self._take("word", "OR"):
            tests.append(self.both())
        return lambda look: any(test(look) for test in tests)

    def both(self) -> Test:
        """AND, written or not."""
        tests = [self.one()]
        while self._take("word", "AND") or self._peek() not in (("", ""), ("mark", ")"), ("word", "OR")):
            tests.append(self.one())
        return lambda look: all(test(look) for test in tests)

    def one(self) -> Test:
        if self._take("word", "NOT") or self._take("mark", "-"):
            inner = self.one()
            return lambda look: not inner(look)
        if self._take("mark", "("):
            inner = self.either()
            if not self._take("mark", ")"):
                raise _invalid(self.text)
            return inner
        return self._comparison()

    def _comparison(self) -> Test:
        kind, name = self._peek()
        self.at += 1
        mark, sign = self._peek()
        if kind != "word" or mark != "mark" or sign not in _SIGNS:
            raise _invalid(self.text)
        self.at += 1
        value_kind, value = self._peek()
        if value_kind not in ("word", "quoted"):
            raise _invalid(self.text)
        self.at += 1
        # RFC 3339 times may stand unquoted, although they hold colons.
        while value_kind == "word" and self._peek() == ("mark", ":") and self.at + 1 < len(self.tokens):
            value += ":" + self.tokens[self.at + 1][1]
            self.at += 2
        return lambda look: compare(look(name), sign, value)


def compare(found: Any, sign: str, wanted: str) -> bool:
    """One comparison; None is a field that is not there."""
    if sign == ":":
        if wanted == "*":
            return found is not None
        return found is not None and fnmatchcase(str(found), wanted if "*" in wanted else f"*{wanted}*")
    if found is None:
        return sign == "!="
    if isinstance(found, datetime):
        return _ordered(found, sign, _moment(wanted))
    return _ordered(str(found), sign, wanted)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise ApiError("INVALID_ARGUMENT", f"Invalid timestamp in the list filter: {text}") from None


def _ordered(found: Any, sign: str, wanted: Any) -> bool:
    if sign in ("=", "!="):
        return bool(found == wanted) == (sign == "=")
    return bool({"<": found < wanted, "<=": found <= wanted, ">": found > wanted, ">=": found >= wanted}[sign])
