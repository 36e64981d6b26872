"""The job's data: files read and checked, rows made into sequences, long ones cut, a part held out. Loads no model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cloudtune.errors import JobFailed
from cloudtune.recipe.locations import is_local_file, is_remote
from cloudtune.recipe.resolved import Channel, JobFile
from cloudtune.recipe.rowfiles import ENDINGS, read_rows
from cloudtune.recipe.rows import check_row, rename_row
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.tokens import Sequence, Tokens


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained and evaluated on, with counts of what happened on the way. Rows are counted as in the files."""

    train: tuple[Sequence, ...]
    evaluation: tuple[Sequence, ...]
    train_rows: int
    eval_rows: int
    dropped_rows: int
    cut_rows: int


@dataclass(frozen=True, slots=True)
class _Read:
    """Sequences of some channels; a row that gave none was dropped."""

    sequences: tuple[Sequence, ...]
    rows: int
    cut: int

    @property
    def kept(self) -> int:
        return len({sequence.row for sequence in self.sequences})

    @property
    def dropped(self) -> int:
        return self.rows - self.kept


def prepare(job: JobFile, paths: Paths, tokens: Tokens) -> Data:
    """All rows as sequences of at most ``max_length`` tokens. Raises JobFailed when a file or row is wrong, or nothing is left."""
    limit = job.recipe.data.max_length
    learned = _read(job.train, paths, tokens, limit)
    if not learned.sequences:
        raise JobFailed(
            "no row of the training data has a token to learn", hint="check max_length, and the format and columns of data.train"
        )
    if job.eval:
        held = _read(job.eval, paths, tokens, limit)
        if not held.sequences:
            raise JobFailed("no row of the evaluation data has a token to learn", hint="check the format and columns of data.eval")
        return Data(learned.sequences, held.sequences, learned.kept, held.kept, learned.dropped + held.dropped, learned.cut + held.cut)
    train, evaluation = hold_out(learned.sequences, job.recipe.data.eval, job.recipe.training.seed)
    eval_rows = len({sequence.row for sequence in evaluation})
    return Data(train, evaluation, learned.kept - eval_rows, eval_rows, learned.dropped, learned.cut)


def hold_out(sequences: tuple[Sequence, ...], fraction: Any, seed: int) -> tuple[tuple[Sequence, ...], tuple[Sequence, ...]]:
    """(training, evaluation) sequences. Whole rows are held out, at least one when ``fraction`` is a number; always the same for a seed."""
    if not isinstance(fraction, float):
        return sequences, ()
    rows = sorted({sequence.row for sequence in sequences})
    if len(rows) < 2:
        raise JobFailed("one row cannot be both learned and held out", hint="give more rows, or set data.eval: null")
    count = min(len(rows) - 1, max(1, round(len(rows) * fraction)))
    held = {rows[index] for index in np.random.default_rng((seed, 0xE7A1)).permutation(len(rows))[:count]}
    return (
        tuple(sequence for sequence in sequences if sequence.row not in held),
        tuple(sequence for sequence in sequences if sequence.row in held),
    )


def _read(channels: tuple[Channel, ...], paths: Paths, tokens: Tokens, limit: int) -> _Read:
    kept: list[Sequence] = []
    number = cut = 0
    for channel in channels:
        for row in _rows(channel, paths):
            number += 1
            was_cut = False
            for whole in tokens.sequences(row, channel.source.format, number):
                sequence = _shortened(whole, limit)
                was_cut |= sequence is not whole
                if sequence.learned:
                    kept.append(sequence)
            cut += was_cut
    return _Read(tuple(kept), number, cut)


def _shortened(sequence: Sequence, limit: int) -> Sequence:
    if len(sequence.ids) <= limit:
        return sequence
    return Sequence(sequence.ids[:limit], sequence.labels[:limit], sequence.row)


def _rows(channel: Channel, paths: Paths) -> Iterator[dict[str, Any]]:
    """Rows under our names. Raises JobFailed with file and line for the first that is wrong."""
    source = channel.source
    for place, row in _numbered(channel, paths):
        problem = check_row(row, source.format, source.columns)
        if problem:
            raise JobFailed(problem, where=place, hint=f"the source has format: {source.format}")
        yield rename_row(row, source.format, source.columns)


def _numbered(channel: Channel, paths: Paths) -> Iterator[tuple[str, Any]]:
    """(place for messages, raw row) of a channel's file or data set."""
    path = paths.inputs / channel.path
    if not path.is_file():
        if is_remote(channel.path):
            raise JobFailed(
                f"{channel.path} was not brought into the job", hint="the launcher stages object stores; the trainer reads files"
            )
        if is_local_file(channel.path):
            raise JobFailed("the data file is not there", where=str(path), hint="it was not staged; launch again")
        yield from _data_set(channel.path, channel.source.split)
        return
    _check_digest(path, channel.sha256)
    ending = PurePosixPath(channel.path).suffix.lower()
    if ending == ".parquet":
        yield from _data_set("parquet", "train", data_files=str(path))
        return
    if ending not in ENDINGS:
        raise JobFailed(f"a data file ends in {', '.join(ENDINGS)} or .parquet, this one in {ending or 'nothing'}", where=str(path))
    with path.open("rb") as stream:
        for item in read_rows(stream, ending):
            if item.problem:
                raise JobFailed(item.problem, where=f"{path}:{item.line}")
            yield f"{path}:{item.line}", item.row


def _check_digest(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        hint = "the file changed after the plan was made, or the copy broke; launch again"
        raise JobFailed(f"the data is not what was planned: sha256 {found[:12]}…, expected {expected[:12]}…", where=str(path), hint=hint)


def _data_set(name: str, split: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
    """Rows of a hub data set, or of a parquet file, through the ``datasets`` library."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise JobFailed("hub data sets and parquet files need the datasets package", hint='pip install "cloudtune[data]"') from error
    try:
        rows = load_dataset(name, split=split, **arguments)
    except (DatasetNotFoundError, OSError, ValueError) as error:
        raise JobFailed(f"the data set cannot be read: {error}", where=name, hint="check its name and split, or use a file") from error
    for number, row in enumerate(rows, start=1):
        yield f"{arguments.get('data_files', name)}, row {number}", row
