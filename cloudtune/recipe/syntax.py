"""What is wrong with text that is no YAML, in our own words and at the best position. Pure.

The parser says where it gave up, which is often a line below the mistake; the table below moves the fault to
the cause (the opening quote, the opening bracket, the tab) and says what to write instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cloudtune.errors import Fault

_TAB_INDENT = re.compile(r"^( *)\t[ \t]*[^\s#]", re.MULTILINE)
_GLUED_KEY = re.compile(r" *((-)(?=[A-Za-z_])|(?:- )?[A-Za-z_]\w*:(?=[^\s:/]))")
_MAX_TABS = 20


@dataclass(frozen=True, slots=True)
class _Meaning:
    """``pattern`` is searched in the parser's context and problem; ``at_start``: place the fault where the construct began."""

    pattern: str
    what: str
    hint: str
    at_start: bool = False


_MEANINGS = (
    _Meaning(r"directive|incompatible YAML", "a line that begins with % speaks to the YAML reader", "remove it"),
    _Meaning(r"sequence entries are not allowed", "a list item '- ' where none can stand",
             "start the list on the next line, or write it as [a, b]"),
    _Meaning(r"quoted scalar.*end of stream|quoted scalar.*document separator", "this quote is never closed",
             "close it, or use the other kind of quote around text that contains one", at_start=True),
    _Meaning(r"unknown escape|escape sequence of", "a backslash in double quotes starts an escape that does not exist",
             "use single quotes, where a backslash is a backslash"),
    _Meaning(r"flow sequence.*expected ',' or '\]'", "this [ is not closed, or a comma is missing after one of its items",
             "write lists as [a, b, c]", at_start=True),
    _Meaning(r"flow mapping.*expected ',' or '\}'", "this { is not closed, or a comma is missing after one of its values",
             "write mappings as {a: 1, b: 2}", at_start=True),
    _Meaning(r"but found '[\]}]'", "a closing bracket that nothing opened", "remove it"),
    _Meaning(r"block collection.*but found|block mapping.*but found", "the indentation or punctuation does not fit the lines above",
             "keys of one mapping begin in the same column; a list item begins with '- '"),
    _Meaning(r"could not find expected ':'", "a key without ': '", "write key: value; continue long text in quotes", at_start=True),
    _Meaning(r"character '\\t'", "a tab where YAML allows only spaces", "indent with spaces"),
    _Meaning(r"cannot start any token", "a value cannot begin with this character", "put the value in quotes"),
    _Meaning(r"scanning an (alias|anchor)|alphabetic or numeric", "text that begins with * or & needs quotes", "put the value in quotes"),
    _Meaning(r"\btag\b|URI|tag handle", "text that begins with ! needs quotes", "put the value in quotes"),
    _Meaning(r"<document start>", "this line does not belong to what stands above",
             "give all top-level keys the same indentation; a closing bracket too many also ends the document"),
    _Meaning(r"block scalar", "the sign | or > begins a block of text here, but is followed by something else",
             "put the value in quotes, or start the text on the next line"),
    _Meaning(r"expected the node content.*(stream end|document)", "the text ends in the middle of a value", "complete the last line"),
    _Meaning(r"expected the node content", "a value is missing before this sign",
             "write the value, or put text that begins with it in quotes"),
    _Meaning(r"end of stream|<stream end>", "the text ends in the middle of a value", "complete the last line"),
    _Meaning(r"unexpected ':'", "a ':' inside a value in brackets", "put a space after the ':' or the value in quotes"),
)  # fmt: skip


def unprintable_fault(text: str, index: int, file: str) -> Fault:
    """The fault at a character that no YAML text may contain."""
    line, column = position(text, index)
    what = f"the character U+{ord(text[index]):04X} does not belong in a text file"
    hint = "this looks like a binary file" if text[index] == "\0" else "remove it"
    return Fault("", what, "YAML text", hint, file, line, column)


def position(text: str, index: int) -> tuple[int, int]:
    """Line and column, both from 1, of ``text[index]``."""
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def syntax_faults(error: Exception, text: str, file: str) -> list[Fault]:
    """The parser's complaint as faults. Tab-indented lines explain most others, so they are named first, each."""
    problem = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    last = problem.line + 1 if problem is not None else text.count("\n") + 1
    tabs = _tab_faults(text, file)
    if any(fault.line <= last + 1 for fault in tabs):
        return tabs
    glued = _glued_key(error, text, file)
    if glued:
        return [glued]
    said = " ".join(str(part) for part in (getattr(error, "context", ""), getattr(error, "problem", "")) if part)
    if "mapping values are not allowed" in said and problem is not None:
        return [_misplaced_key(problem, text, file)]
    for meaning in _MEANINGS:
        if re.search(meaning.pattern, said):
            mark = (getattr(error, "context_mark", None) if meaning.at_start else None) or problem
            return [_fault(meaning.what, meaning.hint, mark, last, file)]
    return [_fault("this is not YAML", "look at this line and the one above it", problem, last, file)]


def _glued_key(error: Exception, text: str, file: str) -> Fault | None:
    """``key:value`` without a space, which YAML takes for a word, where the parser misses the colon or stumbles below."""
    mark = getattr(error, "context_mark", None) if "could not find expected ':'" in str(getattr(error, "problem", "")) else None
    mark = mark or (getattr(error, "problem_mark", None) if "mapping values" in str(getattr(error, "problem", "")) else None)
    if mark is None:
        return None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number in (mark.line, mark.line - 1):
        found = _GLUED_KEY.match(lines[number]) if 0 <= number < len(lines) else None
        if found:
            sign = "-" if found[2] else ":"
            hint = f"write {sign} followed by a space"
            return Fault("", f"a space is missing after the {sign}", "", hint, file, number + 1, found.start(1) + 1)
    return None


def _misplaced_key(mark: Any, text: str, file: str) -> Fault:
    """A ``key: value`` where none can stand: the second on its line, or below a line that is complete without it."""
    line = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[mark.line]
    before = line[: mark.column]
    if ": " in before or mark.line == 0:
        hint = "put text that contains ': ' in quotes"
        return Fault("", "a second ': ' where only one value can stand", "", hint, file, mark.line + 1, mark.column + 1)
    column = len(before) - len(before.lstrip(" ")) + 1
    hint = "the line above lacks its ': ', or keys that belong together do not begin in the same column"
    return Fault("", f"this key cannot stand below line {mark.line}", "", hint, file, mark.line + 1, column)


def _fault(what: str, hint: str, mark: Any, last: int, file: str) -> Fault:
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (last, 1)
    return Fault("", what, "", hint, file, line, column)


def _tab_faults(text: str, file: str) -> list[Fault]:
    found = []
    for match in _TAB_INDENT.finditer(text):
        line, column = position(text, match.end(1))
        found.append(Fault("", "a tab in the indentation", "spaces", "YAML allows no tabs there", file, line, column))
        if len(found) == _MAX_TABS:
            break
    return found
