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
    assert found.mean_tokens == pytest.approx(100 + stats.ROW_TOKENS, abs=1)


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


def tokenizer_file(folder):
    """A real tokenizer.json: one token per letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    model = Tokenizer(models.WordLevel({**letters, "?": 26}, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    path = folder / "tokenizer.json"
    model.save(str(path))
    return path


def test_tokens_are_counted_with_the_models_own_tokenizer(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "ab" * length}) + "\n" for length in (5, 10, 15)))
    found = stats.measure(recipe({"path": "a.jsonl", "format": "text"}), tmp_path, tokenizer=tokenizer_file(tmp_path))
    assert found.basis == "counted"
    assert found.tokens == 60 + 3 * stats.ROW_TOKENS
    assert found.lengths[0] == 10 + stats.ROW_TOKENS
    assert found.lengths[-1] == found.longest_tokens == 30 + stats.ROW_TOKENS
    assert len(found.lengths) == stats.QUANTILES + 1


def test_large_text_is_counted_in_rows_spread_over_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "TOKENISED_CHARACTERS", 2_000)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a" * (10 + number % 7)}) + "\n" for number in range(2_000)))
    found = stats.measure(recipe({"path": "a.jsonl", "format": "text"}), tmp_path, tokenizer=tokenizer_file(tmp_path))
    assert (found.rows, found.basis) == (2_000, "sampled")
    assert found.mean_tokens == pytest.approx(13 + stats.ROW_TOKENS, rel=0.05)


@pytest.mark.parametrize("text", ["", "[]", '{"model": 3}', "not json"])
def test_a_broken_tokenizer_is_one_clear_error(tmp_path, text):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SourceError, match="tokenizer"):
        stats.measure(recipe({"path": "a.jsonl", "format": "text"}), tmp_path, tokenizer=tmp_path / "tokenizer.json")


def test_the_tokenizer_is_found_in_a_model_folder_and_in_the_hubs_cache(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    assert stats.find_tokenizer("./model", tmp_path, {}) == tmp_path / "model" / "tokenizer.json"
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text("{}")
    assert stats.find_tokenizer("org/name", tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")}) == snapshot / "tokenizer.json"
    assert stats.find_tokenizer("org/other", tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")}) is None


def test_messages_count_with_their_role_markers(tmp_path):
    row = {"messages": [{"role": "user", "content": "x" * 36}, {"role": "assistant", "content": "y" * 36}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    found = stats.measure(recipe({"path": "a.jsonl", "format": "chat"}), tmp_path)
    assert found.tokens == pytest.approx(20 + stats.ROW_TOKENS + stats.MESSAGE_TOKENS, abs=1)
