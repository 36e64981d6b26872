"""How big the training data is: rows, tokens and lengths of local files, by a bounded look. Reads files, nothing else.

Rows are counted exactly in files up to ``SAMPLE_BYTES``; of larger ones the beginning is read and the rest extrapolated
by size. Tokens are counted with the model's own tokenizer where its tokenizer.json is at hand and the ``tokenizers``
package is installed, on up to ``TOKENISED_CHARACTERS`` of text spread over the rows; otherwise a token is taken as
``CHARACTERS_PER_TOKEN`` characters: English under vocabularies of 32k-256k has 3.5-4.6, code and small ones less.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtune.errors import SourceError
from cloudtune.planning.plan import DataStats
from cloudtune.planning.work import CHARACTERS_PER_TOKEN
from cloudtune.recipe.locations import is_builtin, is_local_file, is_local_model
from cloudtune.recipe.rows import rename_row
from cloudtune.recipe.spec import DataSource, Recipe
from cloudtune.sources.files import locate, rows_of

SAMPLE_BYTES = 8 * 2**20
TOKENISED_CHARACTERS = 400_000  # about a quarter of a second
CHARACTERS_PER_TOKEN_BUILTIN = 2.6  # the quickstart's vocabulary of 2,048 on English and Python
MESSAGE_TOKENS = 5  # role markers and turn end of one message
ROW_TOKENS = 2  # beginning and end of text
ASSUMED_ROWS = 10_000
ASSUMED_TOKENS_PER_ROW = 400
QUANTILES = 20
END_BYTES = 2**20

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class _Part:
    """One source: its rows, and the token lengths of those that were looked at."""

    rows: int
    lengths: tuple[int, ...]
    tokens: int | None
    basis: str


def measure(recipe: Recipe, base_dir: Path, *, tokenizer: Path | None = None) -> DataStats:
    """Size of ``recipe.data.train``. ``tokenizer``: a tokenizer.json. Raises SourceError when a local file cannot be read."""
    count = _counter(tokenizer)
    guess = CHARACTERS_PER_TOKEN_BUILTIN if is_builtin(recipe.model.base) else CHARACTERS_PER_TOKEN
    parts = [_measure_one(source, base_dir, count, guess) for source in recipe.data.train]
    rows = sum(part.rows for part in parts)
    limit = recipe.data.max_length
    tokens = sum(_tokens(part, limit) for part in parts)
    lengths = sorted(min(length, limit) for part in parts for length in part.lengths)
    bases = [part.basis for part in parts]
    return DataStats(
        rows=rows,
        tokens=tokens,
        mean_tokens=round(tokens / max(1, rows), 1),
        longest_tokens=max(lengths, default=limit),
        basis=next(word for word in ("assumed", "sampled", "counted", "stated") if word in bases),
        lengths=_quantiles(lengths),
    )


def _quantiles(lengths: Sequence[int]) -> tuple[int, ...]:
    if not lengths:
        return ()
    last = len(lengths) - 1
    return tuple(lengths[round(last * step / QUANTILES)] for step in range(QUANTILES + 1))


def _tokens(part: _Part, limit: int) -> int:
    if part.tokens is not None:
        return part.tokens
    if not part.lengths:
        return part.rows * min(ASSUMED_TOKENS_PER_ROW, limit)
    return round(part.rows * sum(min(length, limit) for length in part.lengths) / len(part.lengths))


def _measure_one(source: DataSource, base_dir: Path, count: Count | None, guess: float) -> _Part:
    if source.rows is not None and source.tokens is not None:
        return _Part(source.rows, (), source.tokens, "stated")
    if not is_local_file(source.path):
        return _Part(source.rows or ASSUMED_ROWS, (), source.tokens, "assumed")
    path = locate(source.path, base_dir)
    texts = _texts(path, source)
    size = path.stat().st_size
    lengths, exact = _lengths(texts, count, guess)
    whole = size <= SAMPLE_BYTES
    read = sum(len(text) for text in texts)
    rows = source.rows or (len(texts) if whole else round(len(texts) * size / max(1, min(size, SAMPLE_BYTES), read)))
    basis = "counted" if exact and whole else "sampled"
    return _Part(rows, tuple(lengths), source.tokens, basis)


def _texts(path: Path, source: DataSource) -> list[str]:
    """The text of every row of the file's beginning; broken rows are left out (``validate`` reports them)."""
    try:
        found = [_text(row.row, source) for row in rows_of(path, most_bytes=SAMPLE_BYTES) if not row.problem]
    except SourceError as error:
        if path.suffix.lower() == ".parquet":
            raise
        raise SourceError(
            f"the training data cannot be read: {error.what}", where=str(path), hint="check data.train in the recipe"
        ) from error
    if not found:
        raise SourceError("the training data has no rows", where=str(path), hint="check data.train in the recipe")
    return found


def _text(row: Any, source: DataSource) -> str:
    """All text of a row, a NUL between the messages so that they can be counted again."""
    fields = rename_row(row, source.format, source.columns) if isinstance(row, Mapping) else {}
    return "\0".join(_strings(fields)) if fields else str(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(value["content"] if "content" in value else list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _lengths(texts: Sequence[str], count: Count | None, guess: float) -> tuple[list[int], bool]:
    """Token lengths of the rows, or of rows spread over them, and whether every row was counted with the tokenizer."""
    extra = [ROW_TOKENS + MESSAGE_TOKENS * text.count("\0") for text in texts]
    if count is None:
        return [max(1, round(len(text) / guess)) + more for text, more in zip(texts, extra, strict=True)], False
    total = sum(len(text) for text in texts)
    every = max(1, -(-total // TOKENISED_CHARACTERS))
    chosen = [text.replace("\0", "\n") for text in texts[::every]]
    return [tokens + more for tokens, more in zip(count(chosen), extra[::every], strict=True)], every == 1


def _counter(tokenizer: Path | None) -> Count | None:
    """A function from texts to token counts; None when there is no tokenizer file or no ``tokenizers`` package."""
    if tokenizer is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    text = _tokenizer_text(tokenizer)
    model = Tokenizer.from_str(text)
    return lambda texts: [len(encoding.ids) for encoding in model.encode_batch(list(texts), add_special_tokens=False)]


def _tokenizer_text(path: Path) -> str:
    """The file's text, looked at before the package sees it: that one raises nameless errors."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise SourceError("the tokenizer cannot be read", where=str(path), hint="delete the file to plan without it") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or not content["model"].get("type"):
        raise SourceError("this is no tokenizer", where=str(path), hint="delete the file to plan without it")
    return text


def find_tokenizer(base: str, base_dir: Path, environ: Mapping[str, str] | None = None) -> Path | None:
    """The tokenizer.json of a local model folder, or of the hub's cache on this machine; None when there is none."""
    if is_local_model(base):
        path = locate(base, base_dir) / "tokenizer.json"
        return path if path.is_file() else None
    variables = os.environ if environ is None else environ
    home = Path(variables.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    cache = Path(variables.get("HF_HUB_CACHE") or home / "hub")
    snapshots = cache / f"models--{base.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/tokenizer.json")) if snapshots.is_dir() else []
    return found[-1] if found else None


def fingerprint(path: Path) -> str | None:
    """Size and a digest of the file's first and last MiB: enough to notice a change without reading gigabytes."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha256(file.read(END_BYTES))
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    except OSError:
        return None
    return f"{size}:{digest.hexdigest()[:32]}"
