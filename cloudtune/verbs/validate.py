"""The verb ``validate``: a recipe, and the local files it names, checked together. Reads files, sends nothing anywhere."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from cloudtune.errors import Fault
from cloudtune.recipe.load import Examined, LoadedRecipe, examine_file
from cloudtune.recipe.locations import is_local_file, is_local_model, is_remote
from cloudtune.recipe.rows import REQUIRED_FIELDS
from cloudtune.recipe.rules import TEMPLATE_ENDINGS
from cloudtune.sources import files as local
from cloudtune.sources.files import Checked, Problem


def validate(path: str | Path, *, overrides: Sequence[str] = (), files: bool = True) -> LoadedRecipe:
    """Check a recipe and, with ``files``, that its local data, model folder, config and template are there and fit.

    Raises RecipeError with every fault of the recipe and of its files, each placed in the recipe; faults of a
    data file also name that file and its line.
    """
    examined = examine_file(path, overrides)
    return examined.loaded(tuple(_file_faults(examined)) if files else ())


def _file_faults(examined: Examined) -> Iterator[Fault]:
    """Faults of the local files, as far as the recipe names them: other faults of the recipe do not hide these."""
    data = _mapping(_mapping(examined.data).get("data"))
    model = _mapping(_mapping(examined.data).get("model"))
    base, config, template = _text(model.get("base")), _text(model.get("config")), _text(data.get("chat_template"))
    checks: list[tuple[str, Problem | None]] = []
    if config:
        checks.append(("model.config", local.check_json_object(local.locate(config, _folder(examined)))))
    if is_local_model(base):
        checks.append(("model.base", _model_problem(local.locate(base, _folder(examined)), config)))
    if template.endswith(TEMPLATE_ENDINGS):
        checks.append(("data.chat_template", local.check_text(local.locate(template, _folder(examined)))))
    yield from (_fault(examined, key, problem) for key, problem in checks if problem)
    train = yield from _sources(examined, "train", data.get("train"))
    if isinstance(data.get("eval"), float):
        yield from _held_out(examined, train)
    else:
        yield from _sources(examined, "eval", data.get("eval"))


def _held_out(examined: Examined, train: list[Checked]) -> Iterator[Fault]:
    if local.known_rows(train) == 1:
        yield examined.fault("data.eval", "the training data has one row, of which no part can be held out", "", "add rows or remove eval")


def _sources(examined: Examined, name: str, sources: Any) -> Generator[Fault, None, list[Checked]]:
    """Faults of each source; returns what was seen of them, an unread one for each that is elsewhere."""
    checked: list[Checked] = []
    wrong = {fault.path for fault in examined.faults}
    loss_on = _text(_mapping(_mapping(examined.data).get("data")).get("loss_on")) or "completion"
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        at = f"data.{name}[{index}]"
        path = _text(_mapping(source).get("path"))
        found = Checked(())
        if is_local_file(path) and f"{at}.path" not in wrong:
            unsure = any(fault.startswith((f"{at}.format", f"{at}.columns")) for fault in wrong)
            found = _check_source(_mapping(source), local.locate(path, _folder(examined)), fields=not unsure, loss_on=loss_on)
            yield from (_fault(examined, f"{at}.path", problem) for problem in found.problems)
        elif path and not is_remote(path) and not is_local_file(path) and _exists(_folder(examined) / path):
            what = f"{path} is read as a hub data set, but there is a file of that name"
            yield examined.fault(f"{at}.path", what, "", f"write ./{path} for the file")
        checked.append(found)
    return checked


def _check_source(source: dict[str, Any], path: Path, *, fields: bool, loss_on: str) -> Checked:
    """``fields`` False: only that rows can be read, because the recipe is wrong about what they hold."""
    row_format = source.get("format", "chat")
    columns = {ours: theirs for ours, theirs in _mapping(source.get("columns")).items() if isinstance(theirs, str)}
    known = isinstance(row_format, str) and row_format in REQUIRED_FIELDS
    return local.check_data(path, row_format if known and fields else None, columns, loss_on=loss_on)


def _folder(examined: Examined) -> Path:
    """Where relative paths start, written as the user wrote the recipe's path: messages stay short."""
    return examined.path.parent if examined.path else examined.dir


def _model_problem(folder: Path, config: str) -> Problem | None:
    problem = local.check_model_folder(folder)
    without_config = problem is not None and problem.file.name == "config.json" and bool(config)
    return None if without_config else problem


def _fault(examined: Examined, key: str, problem: Problem) -> Fault:
    return examined.fault(key, str(problem), "", problem.hint)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A value that can be a path, else nothing; the schema speaks about the others."""
    return value if isinstance(value, str) and value.isprintable() else ""


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
