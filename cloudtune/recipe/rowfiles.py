"""Bytes of a data file → numbered rows, for jsonl, json, csv and txt. Opens nothing; standard library only.

Used by ``validate`` on the user's machine and by the trainer in the job, so that both see the same rows.
Rows are read as they are needed; a broken row comes out as a ``NumberedRow`` with a problem, never as an exception.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

ENDINGS = (".jsonl", ".json", ".csv", ".txt")
MAX_ROW_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class NumberedRow:
    """One row and the line (from 1) it starts on; with a ``problem`` there is no row, and reading may end there."""

    line: int
    row: Any = None
    problem: str = ""


def read_rows(stream: BinaryIO, ending: str, *, most_bytes: int | None = None) -> Iterator[NumberedRow]:
    """Rows of an open binary file. ``ending`` is one of ``ENDINGS``; ``most_bytes``: stop at the first row beyond."""
    readers: dict[str, Callable[[BinaryIO, int | None], Iterator[NumberedRow]]] = {
        ".jsonl": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".txt": _txt,
    }
    return readers[ending.lower()](stream, most_bytes)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    problem: str = ""


def _lines(stream: BinaryIO, most_bytes: int | None) -> Iterator[_Line]:
    """Decoded lines with their ends; the last has a problem when the bytes are not UTF-8 or the line has no end."""
    read = 0
    number = 0
    while most_bytes is None or read < most_bytes:
        raw = stream.readline(MAX_ROW_BYTES + 1)
        if not raw:
            return
        number += 1
        read += len(raw)
        if len(raw) > MAX_ROW_BYTES:
            yield _Line(number, "", f"the line is longer than {MAX_ROW_BYTES // 2**20} MiB")
            return
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield _Line(number, "", _not_utf8(raw, error))
            return
        yield _Line(number, text)


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "the file is written in UTF-16; save it as UTF-8"
    if raw[:2] == b"\x1f\x8b":
        return "the file is compressed; unpack it first"
    return f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"


def _jsonl(stream: BinaryIO, most_bytes: int | None) -> Iterator[NumberedRow]:
    for line in _lines(stream, most_bytes):
        if line.problem:
            yield NumberedRow(line.number, problem=line.problem)
        elif line.text.strip():
            row, problem = _decoded(line.text)
            yield NumberedRow(line.number, row, _explained(problem, line))


def _explained(problem: str, line: _Line) -> str:
    if problem and line.number == 1 and line.text.lstrip().startswith("["):
        return f"{problem}; a .jsonl file has one row {{...}} per line (a list of rows is a .json file)"
    if problem and line.text.strip() in ("{", "[", "[{"):
        return "a row goes on over several lines; a .jsonl file has one whole row per line"
    return problem


def _decoded(text: str) -> tuple[Any, str]:
    try:
        return json.loads(text), ""
    except json.JSONDecodeError as error:
        return None, f"not valid JSON at column {error.pos + 1} ({error.msg[0].lower()}{error.msg[1:]})"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError:  # an integer of more than 4300 digits
        return None, "a number too long to read"


def _json(stream: BinaryIO, most_bytes: int | None) -> Iterator[NumberedRow]:
    raw = stream.read(-1 if most_bytes is None else most_bytes + 1)
    cut = most_bytes is not None and len(raw) > most_bytes
    try:
        text = raw.decode("utf-8-sig", errors="ignore" if cut else "strict")
    except UnicodeDecodeError as error:
        yield NumberedRow(raw[: error.start].count(b"\n") + 1, problem=_not_utf8(raw, error))
        return
    start = _after_space(text, 0)
    if text[start : start + 1] == "[":
        yield from _json_items(text, start + 1, cut)
    elif text[start:]:
        yield NumberedRow(1, problem="the file does not begin with [; a .json file is a list of rows (one row per line is a .jsonl file)")


def _json_items(text: str, at: int, cut: bool) -> Iterator[NumberedRow]:
    decoder = json.JSONDecoder()
    line, counted, first = 1, 0, True
    while True:
        at = _after_space(text, at)
        separator = text[at : at + 1]
        if not first and separator == ",":
            at = _after_space(text, at + 1)
        line, counted = line + text.count("\n", counted, at), at
        if separator == "]":
            line += text.count("\n", at, _after_space(text, at + 1))
            if text[_after_space(text, at + 1) :]:
                yield NumberedRow(line, problem="something follows the closing ]; a .json file is one list of rows")
            return
        if cut and at >= len(text):
            return
        if not first and separator != ",":
            yield NumberedRow(line, problem="the list of rows is not closed with ], or a comma is missing after a row")
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not (cut and _may_be_cut(error, text)):
                yield NumberedRow(_line_of(error, line, text), problem=_json_problem(error))
            return
        first = False
        yield NumberedRow(line, row)


def _may_be_cut(error: Exception, text: str) -> bool:
    """Whether a decoding error can come from the text ending in the middle of a row."""
    return isinstance(error, json.JSONDecodeError) and (error.msg.startswith("Unterminated") or error.pos >= len(text) - 8)


def _line_of(error: Exception, line: int, text: str) -> int:
    return text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON at column {error.colno} ({error.msg[0].lower()}{error.msg[1:]})"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number too long to read"


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _csv(stream: BinaryIO, most_bytes: int | None) -> Iterator[NumberedRow]:
    csv.field_size_limit(MAX_ROW_BYTES)  # the default of 128 KiB is less than a long document
    broken: list[_Line] = []

    def texts() -> Iterator[str]:
        for line in _lines(stream, most_bytes):
            if line.problem:
                broken.append(line)
                return
            yield line.text

    reader = csv.reader(texts(), strict=True)
    begins = 1
    header: list[str] | None = None
    try:
        for values in reader:
            number, begins = begins, reader.line_num + 1
            if header is None:
                header = values
                problem = _header_problem(header)
                if problem:
                    yield NumberedRow(number, problem=problem)
                    return
            elif values:
                yield _csv_row(number, header, values)
    except csv.Error as error:
        cut = most_bytes is not None and bool(stream.read(1))
        if not (cut and "end of data" in str(error)):
            yield NumberedRow(begins, problem=f"not valid CSV ({error}); a quoted field may not be closed")
    if broken:
        yield NumberedRow(broken[0].number, problem=broken[0].problem)


def _header_problem(header: list[str]) -> str:
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "the columns are not separated by commas"
    double = next((name for name in header if header.count(name) > 1), None)
    return f"the column {double[:40]!r} is there twice" if double is not None else ""


def _csv_row(number: int, header: list[str], values: list[str]) -> NumberedRow:
    if len(values) != len(header):
        return NumberedRow(number, problem=f"{_fields(len(values))} where the first line names {_fields(len(header))}")
    return NumberedRow(number, dict(zip(header, values, strict=True)))


def _fields(number: int) -> str:
    return "1 field" if number == 1 else f"{number} fields"


def _txt(stream: BinaryIO, most_bytes: int | None) -> Iterator[NumberedRow]:
    for line in _lines(stream, most_bytes):
        if line.problem:
            yield NumberedRow(line.number, problem=line.problem)
        elif line.text.strip():
            yield NumberedRow(line.number, {"text": line.text.rstrip("\r\n")})
