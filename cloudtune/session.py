"""The composition root: settings → clock, ledger and places, wired once. Opens nothing before it is used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from cloudtune.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from cloudtune.ledger.ledger import Ledger
    from cloudtune.providers.base import Place
    from cloudtune.settings import Settings


class Session:
    """What a verb works with. ``places`` replaces providers by name, for tests and for places of your own.

    May be used as a context manager; ``close`` closes the ledger.
    """

    def __init__(self, settings: Settings, clock: Clock, *, places: Mapping[str, Place] | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self._places = dict(places or {})

    @classmethod
    def open(cls, settings: Settings | None = None, clock: Clock | None = None) -> Session:
        """A session with the user's settings and the machine's clock where none are given. Raises UsageError for bad settings."""
        if settings is None:
            from cloudtune.settings import Settings

            settings = Settings.load()
        return cls(settings, clock or SystemClock())

    @cached_property
    def ledger(self) -> Ledger:
        """The job database, opened on first use. Raises LedgerError."""
        from cloudtune.ledger.ledger import Ledger

        return Ledger(self.settings.home, self.clock)

    def place(self, name: str) -> Place:
        """The provider called ``name``, connected once. Raises UsageError when it is unknown or not installed."""
        if name not in self._places:
            from cloudtune.providers import registry

            self._places[name] = registry.connect(name, self.settings, self.clock)
        return self._places[name]

    def close(self) -> None:
        ledger = self.__dict__.pop("ledger", None)
        if ledger is not None:
            ledger.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
