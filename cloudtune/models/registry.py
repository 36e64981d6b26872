"""Finding a model's shape: an explicit config.json, something built in, the offline registry, a local folder, the hub.

Reads at most one local file. The network belongs to floor 4: callers pass ``fetch_config`` when it may be used, and
an id of the registry never needs it. Which wins: ``config`` over everything; then an exact registry id; then an
alias (said in ``ModelShape.source``); then the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cloudtune.errors import SourceError
from cloudtune.models.families import shape_of
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.locations import is_builtin, is_local_model, is_remote
from cloudtune.recipe.quickstart import QUICKSTART_BASE, QUICKSTART_CONFIG

FetchConfig = Callable[[str, str], Mapping[str, Any]]
"""(hub id, revision) -> config.json; raises SourceError when out of reach."""

LARGEST_CONFIG_BYTES = 4 * 2**20
OWN_CONFIG = "give the shape yourself with `model.config: ./config.json` in the recipe"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the offline registry."""

    id: str
    config: Mapping[str, Any]
    aliases: tuple[str, ...]
    source: str
    parameters: int
    """Verified count of the text part with its head."""
    text_part: bool


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("registry.json").read_text("utf-8"))
    return document


@cache
def entries() -> tuple[Entry, ...]:
    """The offline registry in its own order."""
    return tuple(
        Entry(key, item["config"], tuple(item["aliases"]), item["source"], item["parameters"], item.get("text_part", False))
        for key, item in _document()["models"].items()
    )


@cache
def collected() -> str:
    """ISO date on which the registry was collected."""
    return str(_document()["collected"])


@cache
def _names() -> dict[str, Entry]:
    """Lower-case ids and aliases -> entry; an id wins over somebody else's alias."""
    aliases = {alias.lower(): entry for entry in entries() for alias in entry.aliases}
    return aliases | {entry.id.lower(): entry for entry in entries()}


def find_shape(
    base: str,
    *,
    config: Path | None = None,
    base_dir: Path,
    revision: str = "main",
    fetch_config: FetchConfig | None = None,
) -> ModelShape:
    """The shape of ``base`` (``model.base`` of a recipe). Relative folders start from ``base_dir``.

    Raises SourceError, with the next thing to do, when the model is out of reach or its config cannot be used.
    """
    found, source = find_config(base, config=config, base_dir=base_dir, revision=revision, fetch_config=fetch_config)
    shape = shape_of(found, source=source)
    entry = None if config is not None else _names().get(base.lower())
    return shape.with_source(f"{shape.source}; text part") if entry is not None and entry.text_part else shape


def find_config(
    base: str,
    *,
    config: Path | None = None,
    base_dir: Path,
    revision: str = "main",
    fetch_config: FetchConfig | None = None,
) -> tuple[Mapping[str, Any], str]:
    """(config.json of ``base``, where it is from), also of models whose shape is not known. Raises SourceError."""
    if config is not None:
        return read_config(config), str(config)
    if is_builtin(base):
        return _builtin(base)
    if is_local_model(base):
        folder = (base_dir / Path(base).expanduser()).resolve()
        return read_config(folder), str(folder / "config.json")
    if is_remote(base):
        raise SourceError(
            f"the shape of a model in a bucket is not read while planning: {base}", hint=OWN_CONFIG, code="model-config-needed"
        )
    entry = _names().get(base.lower())
    return _from_registry(base, entry) if entry else _from_hub(base, revision, fetch_config)


def _builtin(base: str) -> tuple[Mapping[str, Any], str]:
    if base != QUICKSTART_BASE:
        raise SourceError(f"{base} is not built in", hint=f"the only built-in model is {QUICKSTART_BASE}", code="unknown-model")
    return QUICKSTART_CONFIG, f"{QUICKSTART_BASE}, pre-trained on the machine that trains"


def _from_registry(base: str, entry: Entry) -> tuple[Mapping[str, Any], str]:
    source = f"registry of {collected()}: {entry.id}"
    return entry.config, source if base.lower() == entry.id.lower() else f"{source}; taken for {base}, published with the same sizes"


def _from_hub(base: str, revision: str, fetch_config: FetchConfig | None) -> tuple[Mapping[str, Any], str]:
    near = _near(base)
    if fetch_config is None:
        raise SourceError(f"{base} is not in the offline registry", hint=f"{near}{OWN_CONFIG}", code="unknown-model")
    try:
        config = fetch_config(base, revision)
    except SourceError as error:
        hint = "; ".join(part for part in (error.hint, f"{near}{OWN_CONFIG}") if part)
        raise SourceError(error.what, where=error.where, hint=hint, code=error.code) from error
    return config, f"hub: {base} at {revision}"


def _near(base: str) -> str:
    """A did-you-mean for a misspelt id, as the beginning of a hint."""
    from difflib import get_close_matches

    known = {name.rpartition("/")[2]: name for name in _names()} | {name: name for name in _names()}
    matches = get_close_matches(base.lower(), known, n=1, cutoff=0.8) or get_close_matches(
        base.lower().rpartition("/")[2], known, n=1, cutoff=0.85
    )
    if not matches:
        return ""
    entry = _names()[known[matches[0]]]
    spelling = next(name for name in (entry.id, *entry.aliases) if name.lower() == known[matches[0]])
    return f"did you mean {spelling}? Otherwise "


def read_config(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path`` (a config.json, or a folder that holds one). Raises SourceError."""
    try:
        file = path / "config.json" if path.is_dir() else path
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        hint = "a model folder holds a config.json beside its weights"
        raise SourceError("no model config there", where=str(path), hint=hint, code="no-model-config") from error
    except (OSError, ValueError) as error:
        raise SourceError("the model config cannot be read", where=str(path), hint=str(error), code="no-model-config") from error
    return parse_config(raw, where=str(file))


def parse_config(raw: bytes, *, where: str) -> Mapping[str, Any]:
    """Bytes of a config.json -> object. Raises SourceError for anything else than one JSON object of sane size."""
    if len(raw) > LARGEST_CONFIG_BYTES:
        raise SourceError("too large for a model config", where=where, hint="a config.json has a few kB", code="bad-model-config")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or an absurdly long number
        raise SourceError("not a JSON document", where=where, hint=str(error)[:200], code="bad-model-config") from error
    if not isinstance(value, dict):
        raise SourceError(
            "a model config is a JSON object", where=where, hint="is this the config.json of a model?", code="bad-model-config"
        )
    return value
