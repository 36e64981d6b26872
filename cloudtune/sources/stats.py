"""How big the training data is: rows and tokens of local files, by a bounded look. Reads files, nothing else.

Files up to ``SAMPLE_BYTES`` are read whole; of larger ones the beginning is read and the rest extrapolated by
size. Without a tokenizer at hand a token is taken as ``CHARACTERS_PER_TOKEN`` characters: English text under
vocabularies of 32k-256k has 3.5-4.6 characters per token, code and small vocabularies less.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtune.errors import SourceError
from cloudtune.planning.plan import DataStats
from cloudtune.recipe.locations import is_local_file
from cloudtune.recipe.spec import DataSource, Recipe

SAMPLE_BYTES = 8 * 2**20
CHARACTERS_PER_TOKEN = 3.6
TEMPLATE_TOKENS = 12  # role markers and turn ends around one row
ASSUMED_ROWS = 10_000
ASSUMED_TOKENS_PER_ROW = 400


@dataclass(frozen=True, slots=True)
class _Part:
    rows: int
    lengths: tuple[int, ...]
    tokens: int | None
    basis: str


def measure(recipe: Recipe, base_dir: Path) -> DataStats:
    """Size of ``recipe.data.train``. Raises SourceError when a local file cannot be read."""
    parts = [_measure_one(source, base_dir) for source in recipe.data.train]
    rows = sum(part.rows for part in parts)
    limit = recipe.data.max_length
    tokens = sum(_tokens(part, limit) for part in parts)
    longest = max((min(length, limit) for part in parts for length in part.lengths), default=limit)
    bases = [part.basis for part in parts]
    basis = next(word for word in ("assumed", "sampled", "stated") if word in bases)
    return DataStats(
        rows=rows,
        tokens=tokens,
        mean_tokens=round(tokens / max(1, rows), 1),
        longest_tokens=longest,
        basis=basis,
    )


def _tokens(part: _Part, limit: int) -> int:
    if part.tokens is not None:
        return part.tokens
    if not part.lengths:
        return part.rows * min(ASSUMED_TOKENS_PER_ROW, limit)
    return round(part.rows * sum(min(length, limit) for length in part.lengths) / len(part.lengths))


def _measure_one(source: DataSource, base_dir: Path) -> _Part:
    if source.rows is not None and source.tokens is not None:
        return _Part(source.rows, (), source.tokens, "stated")
    if not is_local_file(source.path) or source.path.endswith(".parquet"):
        return _Part(source.rows or ASSUMED_ROWS, (), source.tokens, "assumed")
    path = base_dir / Path(source.path).expanduser()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise SourceError(
            f"the training data cannot be read: {error.strerror}", where=str(path), hint="check data.train in the recipe"
        ) from error
    lengths = tuple(_estimated_tokens(row) for row in _rows(path, head))
    if not lengths:
        raise SourceError("the training data has no rows", where=str(path), hint="check data.train in the recipe")
    rows = source.rows or (len(lengths) if size <= SAMPLE_BYTES else round(len(lengths) * size / len(head)))
    return _Part(rows, lengths, source.tokens, "sampled")


def _rows(path: Path, head: bytes) -> Iterator[Any]:
    """Rows of the file's beginning; a last row that was cut, or is broken, is left out (``validate`` reports it)."""
    text = head.decode("utf-8", errors="replace")
    match path.suffix.lower():
        case ".json":
            yield from _json_rows(text)
        case ".csv":
            yield from csv.DictReader(io.StringIO(text))
        case ".txt":
            yield from (line for line in text.splitlines() if line.strip())
        case _:
            for line in text.splitlines():
                if (row := _decode(line)) is not None:
                    yield row


def _json_rows(text: str) -> Iterator[Any]:
    whole = _decode(text)
    if isinstance(whole, list):
        yield from whole
    elif isinstance(whole, dict):
        yield from next((value for value in whole.values() if isinstance(value, list)), [])


def _decode(text: str) -> Any | None:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(item) for item in value.values())
    if isinstance(value, list):
        return sum(_characters(item) for item in value)
    return 0


def _estimated_tokens(row: Any) -> int:
    return max(1, round(_characters(row) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS)
