"""A recipe file becomes a ``Recipe``: every fault of the file at once, each on its line. Reads that one file, nothing else.

    bytes → document (YAML 1.2 with positions) → overrides → schema + rules → Recipe, or RecipeError with all faults

Only ``CloudtuneError`` leaves this module, whatever the bytes are. The value of a secret is never printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cloudtune.errors import Fault, RecipeError
from cloudtune.recipe import rules
from cloudtune.recipe.document import MAX_BYTES, Document, Mark, Place, read_document
from cloudtune.recipe.overrides import apply_override
from cloudtune.recipe.paths import Where, dotted, parse_path
from cloudtune.recipe.spec import Recipe

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_FAULTS = 50


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where everything in it stands. ``dir`` is the folder its relative input paths start from."""

    recipe: Recipe
    path: Path | None
    dir: Path
    file: str = "<recipe>"
    _places: dict[Where, Place] = field(default_factory=dict, repr=False, compare=False)

    def position(self, path: str) -> tuple[int, int]:
        """Line and column of the value at ``path`` (or of the nearest key above it); (0, 0) for a ``--set`` value."""
        mark = _nearest(self._places, parse_path(path) or (), at_key=False)
        return mark.line, mark.column

    def fault(self, path: str, what: str, expected: str = "", hint: str = "") -> Fault:
        """A fault placed at the value of ``path``, for checks that come after loading."""
        mark = _nearest(self._places, parse_path(path) or (), at_key=False)
        return Fault(path, what, expected, hint, mark.origin or self.file, mark.line, mark.column)


def load_file(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe file. Raises RecipeError with every fault."""
    place = Path(path)
    raw = _read(place)
    return _load(raw, file=str(path), path=place, folder=place.absolute().parent, overrides=overrides)


def load_text(
    text: str | bytes,
    *,
    file: str = "<recipe>",
    dir: Path | None = None,  # noqa: A002 - named as in LoadedRecipe
    overrides: Sequence[str] = (),
) -> LoadedRecipe:
    """Check a recipe that is already in memory. ``dir``: folder for its relative paths (default: the current one)."""
    return _load(text, file=file, path=None, folder=dir or Path.cwd(), overrides=overrides)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise RecipeError([Fault("", "this is a folder", "a recipe file", _recipes_inside(path), str(path))])
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "write one with: cloudtune init"
        raise RecipeError([Fault("", "there is no such file", "a recipe", hint, str(path))]) from None
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise RecipeError([Fault("", f"cannot be read ({reason})", "a readable recipe file", "", str(path))]) from error
    except ValueError as error:  # a NUL or a lone surrogate in the name
        raise RecipeError([Fault("", f"{str(path)!r} cannot be a file name", "a recipe file")]) from error


def _recipes_inside(folder: Path) -> str:
    found = sorted(inner.name for inner in folder.glob("*.y*ml"))
    return f"did you mean {folder / found[0]}?" if found else ""


def _load(raw: str | bytes, *, file: str, path: Path | None, folder: Path, overrides: Sequence[str]) -> LoadedRecipe:
    document = read_document(raw, file)
    for override in overrides:
        apply_override(document, override)
    recipe, found = _check(document)
    faults = [*document.faults, *(_placed(document, file, *item) for item in found)]
    if recipe is None or faults:
        raise RecipeError(_orderly(faults, file))
    return LoadedRecipe(recipe, path, folder, file, document.places)


def _check(document: Document) -> tuple[Recipe | None, list[tuple[Where, bool, Fault]]]:
    data = document.data
    if not isinstance(data, dict):
        what = "the file holds no values" if data is None else "the file is not a mapping of keys"
        fault = Fault("", what, "a recipe that begins with version: 1", "write one with: cloudtune init")
        return None, [((), False, fault)]
    impossible = [(parse_path(fault.path) or (), False, fault) for fault in rules.conflicts_as_written(data)]
    try:
        return Recipe.model_validate(data), impossible
    except ValidationError as error:
        from cloudtune.recipe.faults import translate

        errors = [*_listed(error), *_below_unknown_method(error, data)]
        return None, [*translate(errors, data), *impossible]


def _listed(error: ValidationError) -> list[ErrorDetails]:
    found = error.errors(include_url=False, include_input=False)
    return [item for item in found if item["type"] != rules.ERROR_TYPE]


def _below_unknown_method(error: ValidationError, data: dict[str, Any]) -> list[ErrorDetails]:
    """With a wrong method.type pydantic looks at no other key of method; check them as those of qlora, which has all."""
    method = data.get("method")
    if not isinstance(method, dict) or not any(item["type"].startswith("union_tag") for item in _listed(error)):
        return []
    try:
        Recipe.model_validate({**data, "method": {**method, "type": "qlora"}})
    except ValidationError as deeper:
        return [item for item in _listed(deeper) if item["loc"][:1] == ("method",)]
    return []


def _placed(document: Document, file: str, where: Where, at_key: bool, fault: Fault) -> Fault:
    mark = _nearest(document.places, where, at_key=at_key)
    return Fault(fault.path or dotted(where), fault.what, fault.expected, fault.hint, mark.origin or file, mark.line, mark.column)


def _nearest(places: dict[Where, Place], where: Where, *, at_key: bool) -> Mark:
    """The mark of ``where``, or of the key of the nearest enclosing value that is written."""
    if where in places:
        return places[where].key if at_key else places[where].value
    for size in range(len(where) - 1, -1, -1):
        if where[:size] in places:
            return places[where[:size]].key
    return Mark("", 0, 0)


def _orderly(faults: list[Fault], file: str) -> list[Fault]:
    """Sorted by position, equal ones once, at most ``MAX_FAULTS``."""
    unique = {(fault.file, fault.line, fault.column, fault.path, fault.what): fault for fault in faults}
    ordered = sorted(unique.values(), key=lambda fault: (fault.file, fault.line, fault.column))
    if len(ordered) <= MAX_FAULTS:
        return ordered
    rest = Fault("", f"and {len(ordered) - MAX_FAULTS} more problems after this line", "", "", file, ordered[MAX_FAULTS].line, 1)
    return [*ordered[:MAX_FAULTS], rest]
