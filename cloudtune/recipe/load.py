"""A recipe file becomes a ``Recipe``: every fault of the file at once, each on its line. Reads that one file, nothing else.

    bytes → document (YAML 1.2 with positions) → overrides → schema + rules → Recipe, or RecipeError with all faults

Only ``CloudtuneError`` leaves this module, whatever the bytes are. The value of a secret is never printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
        return _placed(self._places, self.file, parse_path(path) or (), Fault(path, what, expected, hint))


@dataclass(frozen=True)
class Examined:
    """A recipe file after reading: plain ``data`` (whatever it holds), the faults found, and the recipe when there are none."""

    data: Any
    faults: tuple[Fault, ...]
    recipe: Recipe | None
    path: Path | None
    dir: Path
    file: str
    _places: dict[Where, Place] = field(default_factory=dict, repr=False, compare=False)

    def fault(self, path: str, what: str, expected: str = "", hint: str = "") -> Fault:
        """A fault placed at the value of ``path``."""
        return _placed(self._places, self.file, parse_path(path) or (), Fault(path, what, expected, hint))

    def loaded(self, more: Sequence[Fault] = ()) -> LoadedRecipe:
        """The recipe. Raises RecipeError when there are faults, ``more`` included."""
        faults = [*self.faults, *more]
        if self.recipe is None or faults:
            raise RecipeError(_orderly(faults, self.file))
        return LoadedRecipe(self.recipe, self.path, self.dir, self.file, self._places)


def load_file(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe file. Raises RecipeError with every fault."""
    return examine_file(path, overrides).loaded()


def load_text(
    text: str | bytes,
    *,
    file: str = "<recipe>",
    dir: Path | None = None,  # noqa: A002 - named as in LoadedRecipe
    overrides: Sequence[str] = (),
) -> LoadedRecipe:
    """Check a recipe that is already in memory. ``dir``: folder for its relative paths (default: the current one)."""
    return _examine(text, file=file, path=None, folder=dir or Path.cwd(), overrides=overrides).loaded()


def examine_file(path: str | Path, overrides: Sequence[str] = ()) -> Examined:
    """Read a recipe file without refusing a faulty one. Raises RecipeError only when it cannot be read as YAML at all."""
    place = Path(path)
    return _examine(_read(place), file=str(path), path=place, folder=place.absolute().parent, overrides=overrides)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise RecipeError([Fault("", "this is a folder", "a recipe file", _recipe_inside(path), str(path))])
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "write one with: cloudtune init"
        raise RecipeError([Fault("", "there is no such file", "a recipe", hint, str(path))]) from None
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise RecipeError([Fault("", f"cannot be read ({reason})", "a readable recipe file", "", str(path))]) from error
    except ValueError as error:  # a NUL or a lone surrogate in the name
        raise RecipeError([Fault("", "this cannot be a file name", "a recipe file", "", repr(str(path)))]) from error


def _recipe_inside(folder: Path) -> str:
    found = sorted(inner.name for inner in folder.glob("*.y*ml"))
    return f"did you mean {folder / found[0]}?" if found else ""


def _examine(raw: str | bytes, *, file: str, path: Path | None, folder: Path, overrides: Sequence[str]) -> Examined:
    document = read_document(raw, file)
    for override in overrides:
        apply_override(document, override)
    recipe, found = _check(document)
    faults = (*document.faults, *(_placed(document.places, file, where, fault, at_key=at_key) for where, at_key, fault in found))
    return Examined(document.data, faults, recipe, path, folder, file, document.places)


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


def _placed(places: dict[Where, Place], file: str, where: Where, fault: Fault, *, at_key: bool = False) -> Fault:
    mark = _nearest(places, where, at_key=at_key)
    return replace(fault, path=fault.path or dotted(where), file=mark.origin or file, line=mark.line, column=mark.column)


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
    rest = Fault("", "and more problems from this line on", "", "", file, ordered[MAX_FAULTS].line, 1)
    return [*ordered[:MAX_FAULTS], rest]
