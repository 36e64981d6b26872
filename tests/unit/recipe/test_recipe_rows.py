"""Rows and row files: what each format needs, and the same rows from every kind of file."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.recipe.rowfiles import NumberedRow, read_rows
from cloudtune.recipe.rows import check_row, known_fields, rename_row, required_fields

USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}


def read(content: str | bytes, ending: str, most_bytes: int | None = None) -> list[NumberedRow]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read_rows(io.BytesIO(raw), ending, most_bytes=most_bytes))


def problems(content: str | bytes, ending: str, most_bytes: int | None = None) -> list[tuple[int, str]]:
    return [(row.line, row.problem) for row in read(content, ending, most_bytes) if row.problem]


GOOD = [
    ("chat", {}, {"messages": [USER, ANSWER]}),
    ("chat", {"messages": "talk"}, {"talk": [{"role": "system", "content": ""}, USER, ANSWER, {"role": "tool", "content": "4"}]}),
    ("instruction", {}, {"instruction": "a", "output": "b"}),
    ("instruction", {}, {"instruction": "a", "input": None, "output": "b", "extra": 3}),
    ("completion", {"prompt": "q"}, {"q": "a", "completion": "b"}),
    ("text", {}, {"text": ""}),
    ("preference", {}, {"chosen": "a", "rejected": "b"}),
    ("preference", {}, {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}),
]
BAD = [
    ("chat", {}, {"messages": "Hello"}, "is text, not a list of messages"),
    ("chat", {}, {"messages": []}, "empty list"),
    ("chat", {}, {"messages": [USER, "Hi"]}, "message 2: it is text"),
    ("chat", {}, {"messages": [{"role": "user"}]}, "no 'content'"),
    ("chat", {}, {"messages": [{"from": "human", "content": "x"}]}, "rename 'from' to 'role'"),
    ("chat", {}, {"messages": [{"role": "human", "content": "x"}]}, "rename it to 'user'"),
    ("chat", {}, {"messages": [{"role": None, "content": "x"}]}, "its role is null"),
    ("chat", {}, {"messages": [{"role": "user", "content": None}]}, "its content is null"),
    ("chat", {}, {"conversations": [USER]}, "columns: {messages: conversations}"),
    ("instruction", {}, {"instruction": "a", "response": "b"}, "columns: {output: response}"),
    ("instruction", {}, {"instruction": "a", "input": 3, "output": "b"}, "'input' is a number"),
    ("completion", {}, {"promt": "a", "completion": "b"}, "columns: {prompt: promt}"),
    ("completion", {"prompt": "question"}, {"qestion": "a", "completion": "b"}, "columns: {prompt: qestion}"),
    ("completion", {}, {"prompt": "a", "completion": None}, "'completion' is null"),
    ("text", {}, {"content": "a"}, "columns: {text: content}"),
    ("text", {}, {"a": 1, "b": 2}, "it has a, b"),
    ("text", {}, {}, "it is empty"),
    ("text", {}, {"text": "half \ud800"}, "surrogate"),
    ("text", {}, {"text": True}, "true or false"),
    ("text", {}, ["text"], "the row is a list"),
    ("text", {}, None, "the row is null"),
    ("preference", {}, {"chosen": "a"}, "no field 'rejected'"),
    ("preference", {}, {"chosen": [], "rejected": "b"}, "empty list"),
]


@pytest.mark.parametrize(("form", "columns", "row"), GOOD)
def test_good_rows(form: str, columns: dict[str, str], row: Any) -> None:
    assert check_row(row, form, columns) is None
    assert set(required_fields(form)) <= set(rename_row(row, form, columns)) <= set(known_fields(form))


@pytest.mark.parametrize(("form", "columns", "row", "words"), BAD)
def test_bad_rows(form: str, columns: dict[str, str], row: Any, words: str) -> None:
    assert words in (check_row(row, form, columns) or "")


names = st.sampled_from(["role", "content", "messages", "text", "prompt", "chosen", "é"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["user", "assistant"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner)),
    max_leaves=10,
)


@given(values, st.sampled_from(["chat", "instruction", "completion", "text", "preference"]))
def test_any_value_is_judged_without_an_exception(row: Any, form: str) -> None:
    said = check_row(row, form, {})
    assert said is None or len(said) < 300


ROWS = [{"text": "one"}, {"text": "zwei ü"}, {"text": 'a, "b"\nc'}]


def test_the_same_rows_from_every_kind_of_file() -> None:
    as_jsonl = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    assert [row.row for row in read(as_jsonl, ".jsonl")] == ROWS
    assert [row.row for row in read("\ufeff" + as_jsonl.replace("\n", "\r\n\r\n") + "\r\n", ".jsonl")] == ROWS
    assert [row.row for row in read(json.dumps(ROWS, indent=2), ".json")] == ROWS
    assert [row.row for row in read('text\none\nzwei ü\n"a, ""b""\nc"\n', ".csv")] == ROWS
    assert [row.row for row in read("one\r\n\n zwei\n", ".txt")] == [{"text": "one"}, {"text": " zwei"}]
    assert [row.row for row in read(as_jsonl, ".JSONL")] == ROWS


def test_unusual_line_ends_inside_text_do_not_split_rows() -> None:
    text = "one\u2028two\x0bthree\x85four"
    assert [row.row for row in read(json.dumps({"text": text}, ensure_ascii=False) + "\n", ".jsonl")] == [{"text": text}]
    assert [row.row for row in read(text + "\n", ".txt")] == [{"text": text}]


def test_lines_are_those_an_editor_shows() -> None:
    assert [row.line for row in read('\n{"a": 1}\n\n\n{"a": 2}\n', ".jsonl")] == [2, 5]
    assert [row.line for row in read('[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]', ".json")] == [2, 4, 5]
    assert [row.line for row in read('a,b\n1,"x\ny\nz"\n2,w\n', ".csv")] == [2, 5]
    assert [row.line for row in read("\n\none\n", ".txt")] == [3]


PROBLEMS = [
    ('{"a": 1}\n{"a": }\n', ".jsonl", 2, "not valid JSON at column 7"),
    ('{\n  "a": 1\n}\n', ".jsonl", 1, "goes on over several lines"),
    ('[{"a": 1},\n{"a": 2}]\n', ".jsonl", 1, "a list of rows is a .json file"),
    ("[" * 100_000 + "\n", ".jsonl", 1, "nested too deeply"),
    ('{"a": ' + "9" * 5000 + "}\n", ".jsonl", 1, "too long to read"),
    (b'{"a": "\xff"}\n', ".jsonl", 1, "byte 8 of the line (0xff) is not UTF-8"),
    ("a\n".encode("utf-16"), ".jsonl", 1, "UTF-16"),
    (b"\x1f\x8b\x08\x00rest", ".jsonl", 1, "compressed"),
    ('{"a": 1}\n{"a": 2}\n', ".json", 1, "does not begin with ["),
    ('[{"a": 1}\n {"a": 2}]', ".json", 2, "a comma is missing"),
    ('[{"a": 1},\n]', ".json", 2, "not valid JSON"),
    ('[{"a": 1},\n {"a": 2', ".json", 2, "not valid JSON"),
    ('[{"a": 1}]\n\nmore', ".json", 3, "follows the closing ]"),
    ("[" * 100_000, ".json", 1, "nested too deeply"),
    (b'[{"a": "\xff"}]', ".json", 1, "not UTF-8"),
    ("a,b\n1\n", ".csv", 2, "1 field where the first line names 2 fields"),
    ("a,b\n1,2,3\n", ".csv", 2, "3 fields"),
    ("a,a\n1,2\n", ".csv", 1, "there twice"),
    ("a;b\n1;2\n", ".csv", 1, "not separated by commas"),
    ('a,b\n1,"never closed\n', ".csv", 2, "not valid CSV"),
    (b"a,b\n1,\xff\n", ".csv", 2, "not UTF-8"),
    (b"one\ntwo \xff\n", ".txt", 2, "not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "ending", "line", "words"), PROBLEMS)
def test_problems_stand_on_their_line(content: str | bytes, ending: str, line: int, words: str) -> None:
    (place, said) = problems(content, ending)[0]
    assert place == line
    assert words in said


def test_empty_files_have_no_rows_and_no_problem() -> None:
    for content in ("", "\n", "  \n\n"):
        for ending in (".jsonl", ".json", ".csv", ".txt"):
            assert [row for row in read(content, ending) if row.row] == []


@pytest.mark.parametrize("most", range(1, 140, 3))
def test_a_bounded_look_ends_quietly_wherever_it_is_cut(most: int) -> None:
    rows = [{"text": f'row {number} "ü"\n'} for number in range(5)]
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for content, ending in (
        (jsonl, ".jsonl"),
        (json.dumps(rows, ensure_ascii=False, indent=1), ".json"),
        ("text\n" + "".join(f'"row {number} ""ü""\n"\n' for number in range(5)), ".csv"),
        ("".join(f"row {number} ü\n" for number in range(5)), ".txt"),
    ):
        assert problems(content, ending, most) == []
        assert [row.row for row in read(content, ending, most)] == [row.row for row in read(content, ending)][
            : len(read(content, ending, most))
        ]


def test_a_fault_before_the_cut_is_still_said() -> None:
    broken = '[{"text": "one"}, {"text": two}, ' + '{"text": "three"}, ' * 50
    assert problems(broken + "]", ".json", 200)
    assert problems("a,b\n1\n" + "1,2\n" * 100, ".csv", 50)


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".csv", ".txt"]), st.one_of(st.none(), st.integers(1, 100)))
def test_any_bytes_are_read_without_an_exception(raw: bytes, ending: str, most: int | None) -> None:
    for row in read(raw, ending, most):
        assert row.line >= 1
