"""Data size by a bounded look: rows exact for small files, extrapolated for large ones, stated numbers believed."""

import json

import pytest

from cloudtune.errors import SourceError
from cloudtune.recipe.spec import Recipe
from cloudtune.sources import stats


def recipe(*sources, **data) -> Recipe:
    return Recipe.model_validate(
        {"version": 1, "name": "t", "model": {"base": "x/y"}, "method": {"type": "lora"}, "data": {"train": list(sources), **data}}
    )


def test_rows_are_counted_and_tokens_follow_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "x" * 360}) + "\n" for _ in range(50)))
    found = stats.measure(recipe({"path": "a.jsonl", "format": "text"}), tmp_path)
    assert (found.rows, found.basis) == (50, "sampled")
    assert found.mean_tokens == pytest.approx(100 + stats.TEMPLATE_TOKENS, abs=1)


def test_rows_longer_than_max_length_count_as_cut(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 100_000}) + "\n")
    found = stats.measure(recipe({"path": "a.jsonl", "format": "text"}, max_length=64), tmp_path)
    assert (found.tokens, found.longest_tokens) == (64, 64)


def test_a_large_file_is_extrapolated_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "SAMPLE_BYTES", 10_000)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "y" * 80}) + "\n" for _ in range(5_000)))
    found = stats.measure(recipe({"path": "a.jsonl", "format": "text"}), tmp_path)
    assert found.rows == pytest.approx(5_000, rel=0.03)


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.json", '[{"text": "a"}, {"text": "b"}]', 2),
        ("a.json", '{"data": [{"text": "a"}]}', 1),
        ("a.csv", "text\none\ntwo\nthree\n", 3),
        ("a.txt", "one\n\ntwo\n", 2),
    ],
)
def test_every_file_kind(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text)
    assert stats.measure(recipe({"path": name, "format": "text"}), tmp_path).rows == rows


def test_stated_numbers_are_believed_and_unknown_ones_are_called_assumed(tmp_path):
    assert stats.measure(recipe({"path": "org/set", "rows": 7, "tokens": 700}), tmp_path).basis == "stated"
    assert stats.measure(recipe({"path": "org/set"}), tmp_path).basis == "assumed"


def test_missing_and_empty_files_are_errors_with_their_path(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        stats.measure(recipe({"path": "none.jsonl"}), tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(SourceError, match="no rows"):
        stats.measure(recipe({"path": "empty.jsonl"}), tmp_path)
