"""validate with files: what is missing, unreadable or does not fit is said at its place in the recipe; large files cost little."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from cloudtune.errors import RecipeError, SourceError
from cloudtune.sources.files import SAMPLE_BYTES, Checked, check_data, check_file, locate, rows_of
from cloudtune.verbs.validate import validate
from tests.pace import slowness

ROW = json.dumps({"text": "A line of text that is long enough to be one."}) + "\n"


def write_recipe(folder: Path, *, model: str = "x/y", data: str = "train: [{path: ./a.jsonl, format: text}]") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"version: 1\nname: files\nmodel: {{base: {model}}}\nmethod: {{type: lora}}\ndata: {{{data}}}\n", encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(path)
    return str(caught.value)


def test_paths_start_at_the_recipe_not_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "recipes"
    home.mkdir()
    (home / "a.jsonl").write_text(ROW, encoding="utf-8")
    write_recipe(home)
    monkeypatch.chdir(tmp_path)
    assert validate("recipes/recipe.yaml").dir == home
    (home / "a.jsonl").rename(tmp_path / "a.jsonl")
    assert refusal(Path("recipes/recipe.yaml")).startswith("recipes/recipe.yaml:5:23: recipes/a.jsonl: there is no such file;")


def test_home_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text(ROW, encoding="utf-8")
    assert locate("~/a.jsonl", Path("/elsewhere")) == tmp_path / "a.jsonl"
    assert locate("~nobody-has-this-name/a.jsonl", Path("/x")) == Path("/x/~nobody-has-this-name/a.jsonl")
    validate(write_recipe(tmp_path, data=f"train: [{{path: {tmp_path}/a.jsonl, format: text}}, {{path: ~/a.jsonl, format: text}}]"))


def test_files_that_are_elsewhere_are_not_looked_for(tmp_path: Path) -> None:
    data = "train: [{path: s3://b/a.jsonl}, {path: gs://b/a.parquet}, {path: owner/name}], eval: [{path: gpt-data}]"
    assert validate(write_recipe(tmp_path, data=data, model="s3://bucket/model")).recipe.name == "files"


def test_a_file_without_dot_slash_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(ROW, encoding="utf-8")
    assert "write ./rows for the file" in refusal(write_recipe(tmp_path, data="train: [{path: rows, format: text}]"))


def test_model_folder_and_config(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW, encoding="utf-8")
    path = write_recipe(tmp_path, model="./model")
    assert "5" not in refusal(path).split(":")[1]
    assert "there is no such folder" in refusal(path)
    (tmp_path / "model").write_text("x", encoding="utf-8")
    assert "this is a file" in refusal(path)
    (tmp_path / "model").unlink()
    (tmp_path / "model").mkdir()
    assert "config.json: there is no such file" in refusal(path)
    (tmp_path / "model" / "config.json").write_text("[]", encoding="utf-8")
    assert "no object" in refusal(path)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"', encoding="utf-8")
    assert "config.json:1: not valid JSON" in refusal(path)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    validate(path)


def test_a_config_of_its_own_replaces_the_folders(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW, encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "shape.json").write_text("{}", encoding="utf-8")
    path = write_recipe(tmp_path, model="./model, config: shape.json")
    validate(path)


def test_template(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW, encoding="utf-8")
    path = write_recipe(tmp_path, data="train: [{path: a.jsonl, format: text}], chat_template: chat.jinja")
    assert "recipe.yaml:5:63: " in refusal(path)
    (tmp_path / "chat.jinja").write_bytes(b"\xff")
    assert "no UTF-8 text" in refusal(path)
    (tmp_path / "chat.jinja").write_text("  \n", encoding="utf-8")
    assert "empty" in refusal(path)
    (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    validate(path)


def test_one_row_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW, encoding="utf-8")
    path = write_recipe(tmp_path, data="train: [{path: a.jsonl, format: text}], eval: 0.5")
    assert "no part can be held out" in refusal(path)
    (tmp_path / "a.jsonl").write_text(ROW * 2, encoding="utf-8")
    validate(path)


def test_at_most_three_faults_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": "x"}\n' * 100, encoding="utf-8")
    assert len(refusal(write_recipe(tmp_path)).splitlines()) == 3


def test_special_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert "no ordinary file" in refusal(write_recipe(tmp_path))  # and does not wait for a writer
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
    assert "cannot be read" in refusal(write_recipe(tmp_path))
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert "there is no such file" in refusal(write_recipe(tmp_path))
    assert check_file(Path("nul\0byte")) is not None


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "txt"])
def test_of_a_large_file_only_the_beginning_is_read(tmp_path: Path, ending: str) -> None:
    count = 400_000
    lines = {
        "jsonl": ROW,
        "json": ROW.rstrip() + ",\n",
        "csv": f'"{"many words " * 4}"\n',
        "txt": "A line of text that is long enough to be one.\n",
    }
    head = {"jsonl": "", "json": "[\n", "csv": "text\n", "txt": ""}
    path = tmp_path / f"big.{ending}"
    path.write_text(head[ending] + lines[ending] * count, encoding="utf-8")
    assert path.stat().st_size > SAMPLE_BYTES
    began = time.process_time()
    checked = check_data(path, "text", {})
    assert time.process_time() - began < 2 * slowness()
    assert checked.problems == ()
    assert checked.rows == 1000
    assert not checked.whole


def test_a_small_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW * 5000 + '{"text": 1}\n', encoding="utf-8")
    checked = check_data(tmp_path / "a.jsonl", "text", {})
    assert [problem.line for problem in checked.problems] == [5001]
    assert (checked.rows, checked.whole) == (5001, True)


def test_rows_of_every_kind_of_file_alike(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "ü", "completion": "d"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [row.row for row in rows_of(tmp_path / "a.parquet")] == [row.row for row in rows_of(tmp_path / "a.jsonl")] == rows
    assert check_data(tmp_path / "a.parquet", "completion", {}).problems == ()
    (problem,) = check_data(tmp_path / "a.parquet", "text", {}).problems[:1]
    assert problem.line == 1
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert "not a readable parquet file" in str(check_data(tmp_path / "a.parquet", "text", {}).problems[0])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # Python then says that there is no such package
    told = refusal(write_recipe(tmp_path, data="train: [{path: ./a.parquet, format: text}]"))
    assert "recipe.yaml:5:23: " in told
    assert "pip install 'cloudtune[data]'" in told


def test_files_that_cannot_be_opened_raise_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        list(rows_of(tmp_path / "missing.jsonl"))
    with pytest.raises(SourceError, match="not read"):
        list(rows_of(tmp_path / "table.xlsx"))


USER, ANSWER = ({"role": role, "content": "Hello"} for role in ("user", "assistant"))
TEACHES_NOTHING = [
    ("chat", {"messages": [USER, USER]}, "no message of the assistant has any text"),
    ("chat", {"messages": [USER, {**ANSWER, "content": ""}]}, "no message of the assistant has any text"),
    ("completion", {"prompt": "a", "completion": ""}, "the field 'completion' is empty"),
    ("instruction", {"instruction": "a", "output": ""}, "the field 'output' is empty"),
    ("text", {"text": ""}, "the field 'text' is empty"),
]


@pytest.mark.parametrize(("form", "row", "why"), TEACHES_NOTHING)
def test_a_file_that_teaches_nothing_is_refused_at_its_first_row(tmp_path: Path, form: str, row: dict, why: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + f"{json.dumps(row)}\n" * 3, encoding="utf-8")
    text = refusal(write_recipe(tmp_path, data=f"train: [{{path: ./a.jsonl, format: {form}}}]"))
    assert f"a.jsonl:2: none of the 3 rows can be learned from: {why}" in text
    good = {"chat": {"messages": [USER, ANSWER]}, "completion": {"prompt": "", "completion": "b"}, "text": {"text": "b"}}
    other = good.get(form, {"instruction": "a", "output": "b"})
    path.write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n", encoding="utf-8")
    assert check_data(path, form, {}) == Checked((), 2, True, 1)  # the trainer leaves one out and says so


def test_what_is_learned_decides_what_teaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [USER, USER]}) + "\n", encoding="utf-8")
    assert validate(write_recipe(tmp_path, data="train: [{path: ./a.jsonl}], loss_on: all")).recipe.data.loss_on == "all"
    assert "none of the 1 rows" in refusal(write_recipe(tmp_path, data="train: [{path: ./a.jsonl}]"))


def test_a_renamed_column_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "said": ""}) + "\n", encoding="utf-8")
    data = "train: [{path: ./a.jsonl, format: completion, columns: {completion: said}}]"
    assert "the field 'said' is empty" in refusal(write_recipe(tmp_path, data=data))


def test_rows_that_teach_nothing_cannot_be_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW + json.dumps({"text": ""}) + "\n", encoding="utf-8")
    assert "no part can be held out" in refusal(write_recipe(tmp_path, data="train: [{path: ./a.jsonl, format: text}], eval: 0.5"))
