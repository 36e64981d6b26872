"""Rows in, sequences out: what is held out, cut, dropped or refused, and that it is said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer
from trainer_jobs import INSTRUCTIONS, Root, job_file, lay_out

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import Channel
from cloudtune.recipe.spec import DataSource
from cloudtune_trainer import data
from cloudtune_trainer.chat import ChatRenderer
from cloudtune_trainer.data import Data
from cloudtune_trainer.tokens import Tokens

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def read(made: Root, tokenizer: Any) -> Data:
    recipe = made.job.recipe
    return data.prepare(made.job, made.paths, Tokens(tokenizer, recipe.data, recipe.task, lambda: ChatRenderer(tokenizer)))


def with_file(made: Root, name: str, content: bytes, **source: Any) -> Root:
    """``made`` with another data file in place of its own."""
    path = made.paths.inputs / "train" / name
    path.write_bytes(content)
    channel = Channel(path=f"train/{name}", source=DataSource(path=f"train/{name}", **source))
    return Root(made.job.model_copy(update={"train": (channel,)}), made.paths)


def test_a_fraction_is_held_out_and_always_the_same(root: Any, tokenizer: Any) -> None:
    made = root(job_file())
    one, two = read(made, tokenizer), read(made, tokenizer)
    held = [sequence.row for sequence in one.evaluation]
    assert held == [sequence.row for sequence in two.evaluation]
    assert one.eval_rows == len(held) == round(0.2 * len(INSTRUCTIONS))
    assert not set(held) & {sequence.row for sequence in one.train}
    assert one.train_rows + one.eval_rows == len(INSTRUCTIONS)
    other = read(root(job_file(training={"seed": 3})), tokenizer)
    assert held != [sequence.row for sequence in other.evaluation]
    tiny = read(root(job_file(data={"eval": 0.001})), tokenizer)
    assert tiny.eval_rows == 1


def test_one_row_cannot_be_both(root: Any, tokenizer: Any) -> None:
    with pytest.raises(JobFailed, match="both learned and held out"):
        read(root(job_file(), rows=INSTRUCTIONS[:1]), tokenizer)


def test_long_rows_are_cut_and_rows_without_learned_tokens_are_dropped_and_counted(root: Any, tokenizer: Any) -> None:
    rows = [*INSTRUCTIONS, {"instruction": "long " * 100, "output": "never reached"}, {"instruction": "a", "output": "long " * 100}]
    rows.append({"instruction": "empty", "output": ""})
    found = read(root(job_file(data={"eval": None}), rows=rows), tokenizer)
    assert found.dropped_rows == 2
    assert found.cut_rows == 2
    assert found.train_rows == len(INSTRUCTIONS) + 1
    assert max(len(sequence.ids) for sequence in found.train) == 64
    made = root(job_file(training={"max_steps": 1}), rows=rows)
    made.train()
    said = " ".join(row.message for row in made.metrics)
    assert "2 were longer than max_length 64 and were cut" in said
    assert "2 were left out" in said
    assert made.manifest.dropped_rows == 2


def test_own_evaluation_sources(root: Any, tokenizer: Any) -> None:
    made = root(job_file())
    job = made.job.model_copy(update={"eval": made.job.train})
    found = read(Root(job, made.paths), tokenizer)
    assert found.train_rows == found.eval_rows == len(INSTRUCTIONS)


def test_every_kind_of_file_and_columns(root: Any, tokenizer: Any) -> None:
    made = root(job_file(data={"eval": None}))
    rows = [{"question": row["instruction"], "answer": row["output"]} for row in INSTRUCTIONS]
    columns = {"instruction": "question", "output": "answer"}
    table = io.StringIO()
    writer = csv.DictWriter(table, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    files = {"a.jsonl": "\n".join(map(json.dumps, rows)), "a.json": json.dumps(rows), "a.csv": table.getvalue()}
    found = [read(with_file(made, name, text.encode(), format="instruction", columns=columns), tokenizer) for name, text in files.items()]
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    found.append(read(with_file(made, "a.parquet", buffer.getvalue(), format="instruction", columns=columns), tokenizer))
    ids = [[sequence.ids.tolist() for sequence in one.train] for one in found]
    assert len(ids[0]) == len(INSTRUCTIONS)
    assert ids[0] == ids[1] == ids[2] == ids[3]
    lines = read(with_file(made, "a.txt", b"one line\n\nanother line\n", format="text"), tokenizer)
    assert lines.train_rows == 2


def test_several_sources_are_put_together(root: Any, tokenizer: Any) -> None:
    made = root(job_file(data={"eval": None}))
    more = with_file(made, "b.jsonl", b'{"text": "more"}\n', format="text").job.train
    found = read(Root(made.job.model_copy(update={"train": (*made.job.train, *more)}), made.paths), tokenizer)
    assert found.train_rows == len(INSTRUCTIONS) + 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"instruction": "a", "output": "b"}\n{"instruction": "a"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"question": "a", "output": "b"}\n', "a.jsonl:1: the row has no field 'instruction'"),
        ("a.jsonl", b'{"instruction": 3, "output": "b"}\n', "is a number, not text"),
        ("a.xml", b"<a/>", "a data file ends in"),
        ("a.jsonl", b"", "no row of the training data"),
    ],
)
def test_wrong_files_are_refused_with_their_place(root: Any, tokenizer: Any, name: str, content: bytes, said: str) -> None:
    made = with_file(root(job_file()), name, content, format="instruction")
    with pytest.raises(JobFailed) as caught:
        read(made, tokenizer)
    assert said in str(caught.value)


def test_changed_missing_and_unstaged_data(root: Any, tokenizer: Any, tmp_path: Path, base: Path) -> None:
    made = lay_out(tmp_path / "changed", job_file(), base)
    path = made.paths.inputs / made.job.train[0].path
    path.write_text(path.read_text() + "\n")
    with pytest.raises(JobFailed, match="not what was planned"):
        read(made, tokenizer)
    path.unlink()
    with pytest.raises(JobFailed, match="not there"):
        read(made, tokenizer)
    away = Channel(path="s3://bucket/rows.jsonl", source=DataSource(path="s3://bucket/rows.jsonl", format="instruction"))
    with pytest.raises(JobFailed, match="not brought into the job"):
        read(Root(made.job.model_copy(update={"train": (away,)}), made.paths), tokenizer)
