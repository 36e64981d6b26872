"""``--set training.epochs=1``: single values laid over a recipe before it is checked. Pure."""

from __future__ import annotations

from typing import Any

from cloudtune.errors import Fault, RecipeError
from cloudtune.recipe.document import Document, Mark, Place, read_document
from cloudtune.recipe.paths import Where, dotted, looks_secret, parse_path

_FORM = "KEY=VALUE such as training.epochs=1"
_MAX_LENGTH = 20_000


def apply_override(document: Document, override: str) -> None:
    """Lay one ``path=value`` over the document's data; what cannot be laid is added to its faults."""
    key, equals, text = override.partition("=")
    where = parse_path(key.strip())
    if not equals or where is None or isinstance(where[0], int):
        shown = "" if looks_secret(override) or len(override) > 60 or not override.isprintable() else f" {override}"
        _fault(document, f"--set{shown}", "", "this is no override", _FORM)
        return
    origin = f"--set {dotted(where)}"
    if not text.strip():
        _fault(document, origin, dotted(where), "no value is given", _FORM, f"write {dotted(where)}=null for none")
        return
    part = _value(document, origin, where, text)
    if part is not None:
        _lay(document, where, part, origin)


def _value(document: Document, origin: str, where: Where, text: str) -> Document | None:
    if len(text) > _MAX_LENGTH:
        _fault(document, origin, dotted(where), f"the value is longer than {_MAX_LENGTH} characters", _FORM)
        return None
    try:
        part = read_document(text, origin)
    except RecipeError as error:
        first = error.faults[0]
        _fault(document, origin, dotted(where), f"in its value, {first.what}", first.expected, first.hint or "put the value in quotes")
        return None
    for fault in part.faults:
        _fault(document, origin, dotted(where), fault.what, fault.expected, fault.hint)
    return part


def _lay(document: Document, where: Where, part: Document, origin: str) -> None:
    if document.data is None:
        document.data = {}
    holder = document.data
    mark = Mark(origin, 0, 0)
    for depth, step in enumerate(where[:-1]):
        holder = _descend(holder, step)
        if holder is None:
            at = dotted(where[: depth + 1])
            _fault(document, origin, dotted(where), f"{at} has no keys or items to set", "a path that leads through mappings and lists")
            return
        document.places.setdefault(where[: depth + 1], Place(mark, mark))
    if not _put(holder, where[-1], part.data):
        _fault(document, origin, dotted(where), f"there is no {dotted(where)}", "a key of a mapping, or an item that the list has")
        return
    for old in [place for place in document.places if place[: len(where)] == where]:
        del document.places[old]
    for place in part.places:
        document.places[(*where, *place)] = Place(mark, mark)


def _descend(holder: Any, step: str | int) -> Any:
    """The mapping or list below ``step``, made when the recipe has none there; None when something else stands there."""
    inner: Any = None
    if isinstance(step, int):
        inner = holder[step] if isinstance(holder, list) and step < len(holder) else None
    elif isinstance(holder, dict):
        inner = holder.get(step)
        if inner is None:
            inner = holder[step] = {}
    return inner if isinstance(inner, (dict, list)) else None


def _put(holder: Any, step: str | int, value: Any) -> bool:
    """Whether ``holder`` could take the value: mappings take any key, lists only items that they have."""
    fits = isinstance(holder, list) and step < len(holder) if isinstance(step, int) else isinstance(holder, dict)
    if fits:
        holder[step] = value
    return fits


def _fault(document: Document, origin: str, path: str, what: str, expected: str = "", hint: str = "") -> None:
    document.faults.append(Fault(path, what, expected, hint, origin))
