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
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Place, Request, Staged


class PlaceSettings(Protocol):
    """What every provider needs of the settings; each may ask for more."""

    @property
    def home(self) -> Path: ...
    @property
    def cache(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` has ``connect(settings, clock) -> Place``. ``extra``: what pip installs.

    ``request``: module with ``request_builder(settings)``, where requests can be made without the extra.
    """

    module: str
    extra: str = ""
    request: str = ""


PROVIDERS: dict[str, Entry] = {
    "local": Entry("cloudtune.providers.local.place"),
    "aws": Entry("cloudtune.providers.aws.place", "aws", request="cloudtune.providers.aws.request"),
    "gcp": Entry("cloudtune.providers.gcp.place", "gcp", request="cloudtune.providers.gcp.request"),
}


def connect(name: str, settings: PlaceSettings, clock: Clock) -> Place:
    """The place called ``name``. Raises UsageError for an unknown one and for one whose packages are missing."""
    entry = PROVIDERS.get(name)
    if entry is None:
        raise UsageError(f"there is no provider {name!r}", hint=f"choose one of: {', '.join(PROVIDERS)}")
    try:
        open_place: Callable[[PlaceSettings, Clock], Place] = import_module(entry.module).connect
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the provider {name} needs the Python package {error.name}",
            code="extra-missing",
            hint=f"run: pip install 'cloudtune[{entry.extra}]'",
        ) from error
    return open_place(settings, clock)


def request_builder(name: str, settings: PlaceSettings, clock: Clock) -> Callable[[Plan, Staged, LaunchId], Request]:
    """What makes the requests of the place called ``name``: pure, and without its SDK where the provider can. Raises as ``connect``."""
    entry = PROVIDERS.get(name)
    if entry is None or not entry.request:
        return connect(name, settings, clock).build_request
    make: Callable[[PlaceSettings], Callable[[Plan, Staged, LaunchId], Request]] = import_module(entry.request).request_builder
    return make(settings)
