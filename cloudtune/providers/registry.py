"""Provider name → where its code is, and the sentence to show when it cannot be used. Imports a provider only when asked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.clock import Clock
    from cloudtune.providers.base import Place


class PlaceSettings(Protocol):
    """What every provider needs of the settings; each may ask for more."""

    @property
    def home(self) -> Path: ...
    @property
    def cache(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` has ``connect(settings, clock) -> Place``; empty while this version cannot run there. ``extra``: what pip installs."""

    module: str
    extra: str = ""
    hint: str = ""


PROVIDERS: dict[str, Entry] = {
    "local": Entry("cloudtune.providers.local.place"),
    "aws": Entry("", "aws", "`cloudtune plan --provider aws` already shows machines and prices; run with --provider local"),
    "gcp": Entry("", "gcp", "`cloudtune plan --provider gcp` already shows machines and prices; run with --provider local"),
}


def connect(name: str, settings: PlaceSettings, clock: Clock) -> Place:
    """The place called ``name``. Raises UsageError for an unknown one and for one that this version cannot run on."""
    entry = PROVIDERS.get(name)
    if entry is None:
        raise UsageError(f"there is no provider {name!r}", hint=f"choose one of: {', '.join(PROVIDERS)}")
    if not entry.module:
        raise UsageError(f"this version runs jobs on this machine only, not on {name}", code="provider-not-yet", hint=entry.hint)
    try:
        open_place: Callable[[PlaceSettings, Clock], Place] = import_module(entry.module).connect
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the provider {name} needs the Python package {error.name}",
            code="extra-missing",
            hint=f"run: pip install 'cloudtune[{entry.extra}]'",
        ) from error
    return open_place(settings, clock)
