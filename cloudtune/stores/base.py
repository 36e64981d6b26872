"""The Store: files under one URI, as staging and collecting need them. A Protocol and its values; no code runs here.

The laws (tests/contract/store.py): what was put is listed and fetched byte for byte; a put is whole or absent; fetch
from an offset gives the rest; a missing file is a StoreError with code ``store-missing``; nothing outside the store's
root is ever read or written, whatever the path says; something that is not a plain file is listed as what it is and
never fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["file", "folder", "link", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a store: ``path`` relative to its root with forward slashes, ``bytes`` of a file."""

    path: str
    kind: Kind
    bytes: int = 0


class Store(Protocol):
    """Files below one root. All methods raise StoreError; a store behind a login also AuthError, and the two retryable errors."""

    def put(self, path: str, chunks: Iterable[bytes]) -> None: ...
    def list(self, prefix: str = "") -> Iterator[Entry]: ...
    def fetch(self, path: str, start: int = 0) -> Iterator[bytes]: ...
