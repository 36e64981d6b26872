"""Local data files: are they there, can they be read, do their rows hold what the format needs. Reads files, changes nothing.

Large files are looked at from the beginning only (``SAMPLE_BYTES``), so a check takes well under a second.
jsonl, json, csv and txt need the standard library; parquet needs pyarrow, which comes with ``cloudtune[data]``.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cloudtune.errors import SourceError
from cloudtune.recipe.rowfiles import ENDINGS, NumberedRow, read_rows
from cloudtune.recipe.rows import check_row, example_row, teaches_nothing

SAMPLE_BYTES = 8 * 2**20
SAMPLE_ROWS = 1000
MAX_PROBLEMS = 3
DATA_ENDINGS = (*ENDINGS, ".parquet")
_ROW_HINTS = {
    ".jsonl": "every line is one row, such as {...}",
    ".json": "the file is one list of rows, such as [{...}, {...}]",
    ".csv": "the first line names the columns, every other has as many fields",
    ".txt": "every line is one row",
    ".parquet": "every row has the fields of its format",
}
_CONFIG_HINT = "this is the config.json that comes with the model"
_MAX_CONFIG_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file: ``line`` counts from 1 (the row for parquet), 0 when it is the file as a whole."""

    file: Path
    what: str
    hint: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of looking at one data file. ``rows`` were read; ``whole`` says that there are no more.

    From ``idle`` of them nothing can be learned.
    """

    problems: tuple[Problem, ...]
    rows: int = 0
    whole: bool = False
    idle: int = 0


def locate(path: str, base_dir: Path) -> Path:
    """The file that a recipe's path means: relative ones start at ``base_dir``, ``~`` is the home folder."""
    try:
        return base_dir / Path(path).expanduser()
    except RuntimeError:  # there is no such home folder
        return base_dir / path


def rows_of(path: Path, *, most_bytes: int | None = None) -> Iterator[NumberedRow]:
    """Rows of a local data file. Raises SourceError when it cannot be opened, or is parquet and pyarrow is missing."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    if path.suffix.lower() not in ENDINGS:
        raise SourceError("this kind of file is not read", where=str(path), hint=f"use one of {', '.join(DATA_ENDINGS)}")
    try:
        with path.open("rb") as stream:
            yield from read_rows(stream, path.suffix, most_bytes=most_bytes)
    except OSError as error:
        raise SourceError(f"the file cannot be read ({_reason(error)})", where=str(path)) from error


def check_data(path: Path, row_format: str | None, columns: Mapping[str, str], *, loss_on: str = "completion") -> Checked:
    """Look at a data file and its first rows. ``row_format`` None: only whether the rows can be read.

    A row from which nothing can be learned is no fault, since the trainer leaves it out and says so; a file of nothing
    else is one.
    """
    there = check_file(path)
    if there:
        return Checked((there,))
    if path.suffix.lower() not in DATA_ENDINGS:
        return Checked((Problem(path, "this kind of data file is not read", f"use one of {', '.join(DATA_ENDINGS)}"),))
    small = path.stat().st_size <= SAMPLE_BYTES
    problems: list[Problem] = []
    idle: list[tuple[int, str]] = []
    count = 0
    try:
        for count, row in enumerate(islice(rows_of(path, most_bytes=SAMPLE_BYTES), None if small else SAMPLE_ROWS), start=1):
            if row.problem:
                problems.append(_row_problem(path, row.line, row.problem, _ROW_HINTS[path.suffix.lower()]))
            elif row_format and (wrong := check_row(row.row, row_format, columns)):
                problems.append(_row_problem(path, row.line, wrong, f"a row is {example_row(row_format)}"))
            elif row_format and (why := teaches_nothing(row.row, row_format, columns, loss_on=loss_on)):
                idle.append((row.line, why))
            if len(problems) == MAX_PROBLEMS:
                return Checked(tuple(problems), count)
    except SourceError as error:
        return Checked((Problem(path, error.what, error.hint),))
    if count == 0:
        problems.append(Problem(path, "there are no rows in it", _ROW_HINTS[path.suffix.lower()]))
    elif len(idle) == count:
        line, why = idle[0]
        rows = f"{'none' if small else 'not one'} of the {'' if small else 'first '}{count} rows"
        problems.append(Problem(path, f"{rows} can be learned from: {why}", "fill the answers in, or check format and columns", line))
    return Checked(tuple(problems), count, small, len(idle))


def _row_problem(path: Path, line: int, said: str, usual: str) -> Problem:
    """A sentence about a row, which may carry its own fix after a semicolon, as a problem; ``usual`` is the fix it has else."""
    what, _, fix = said.partition("; ")
    specific = fix.startswith(("write ", "rename ", "save ", "unpack ", "a ."))
    return Problem(path, what, fix if specific else "; ".join(part for part in (fix, usual) if part), line)


def check_file(path: Path) -> Problem | None:
    """Why ``path`` is no readable, non-empty file, or None."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Problem(path, "this is a folder", _file_inside(path))
        if not stat.S_ISREG(status.st_mode):
            return Problem(path, "this is no ordinary file", "name a file that can be read again and again")
        if status.st_size == 0:
            return Problem(path, "the file is empty", "write something into it, or name another")
        with path.open("rb") as stream:
            stream.read(1)
    except FileNotFoundError:
        return Problem(path, "there is no such file", _resembling(path))
    except (OSError, ValueError) as error:
        return Problem(path, f"cannot be read ({_reason(error)})", "check the path and its permissions")
    return None


def check_json_object(path: Path) -> Problem | None:
    """Why ``path`` is no file with one JSON object, or None."""
    there = check_file(path)
    if there:
        return there
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_MAX_CONFIG_BYTES))
    except json.JSONDecodeError as error:
        return Problem(path, f"not valid JSON at column {error.colno}", _CONFIG_HINT, error.lineno)
    except (ValueError, RecursionError, OSError) as error:
        return Problem(path, f"not valid JSON ({_reason(error)})", _CONFIG_HINT)
    return None if isinstance(value, dict) else Problem(path, "this is JSON, but no object {...}", _CONFIG_HINT)


def check_text(path: Path) -> Problem | None:
    """Why ``path`` is no UTF-8 text file with something in it, or None."""
    there = check_file(path)
    if there:
        return there
    try:
        text = path.read_bytes()[:_MAX_CONFIG_BYTES].decode("utf-8", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        return Problem(path, f"this is no UTF-8 text ({_reason(error)})", "save it as UTF-8")
    return None if text.strip() else Problem(path, "the file is empty", "write something into it, or name another")


def check_model_folder(path: Path) -> Problem | None:
    """Why ``path`` is no folder with a model's config.json, or None."""
    try:
        if not path.exists():
            return Problem(path, "there is no such folder", _resembling(path))
        if not path.is_dir():
            return Problem(path, "this is a file", "model.base is a folder with config.json, weights and tokenizer")
    except (OSError, ValueError) as error:
        return Problem(path, f"cannot be read ({_reason(error)})", "check the path and its permissions")
    return check_json_object(path / "config.json")


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError as error:
        hint = "install it with: pip install 'cloudtune[data]', or check without files: cloudtune validate --no-files"
        raise SourceError("parquet files need pyarrow, which is not installed", where=str(path), hint=hint) from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield NumberedRow(number, row)
    except (ArrowException, OSError) as error:
        yield NumberedRow(number + 1, problem=f"not a readable parquet file ({type(error).__name__})")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1}"
    return str(getattr(error, "strerror", None) or "unusable").lower()


def _file_inside(folder: Path) -> str:
    try:
        found = sorted(inner.name for inner in folder.iterdir() if inner.suffix.lower() in DATA_ENDINGS)
    except OSError:
        return ""
    return f"name a file in it, such as {found[0]}" if found else "name a file"


def _resembling(path: Path) -> str:
    """A file beside or of the same name, for a path that does not exist."""
    try:
        names = sorted(inner.name for inner in path.parent.iterdir())
    except (OSError, ValueError):
        return "its folder is not there either: paths start at the recipe's own folder"
    import difflib

    close = difflib.get_close_matches(path.name, names, 1, 0.6)
    return f"did you mean {close[0]}?" if close else "paths start at the recipe's own folder"


def known_rows(checked: list[Checked]) -> int | None:
    """Rows of several files together that something can be learned from, None unless every one was read to its end."""
    return sum(one.rows - one.idle for one in checked) if checked and all(one.whole for one in checked) else None
