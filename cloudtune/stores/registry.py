"""URI scheme → Store. Imports a store's library only when a URI asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cloudtune.errors import UsageError
from cloudtune.stores.folder import FolderStore

if TYPE_CHECKING:
    from cloudtune.stores.base import Store


def open_store(uri: str) -> Store:
    """The store at ``uri``. Raises UsageError for a scheme that this version does not know."""
    address = urlsplit(uri)
    if address.scheme == "file":
        return FolderStore(Path(unquote(address.path)))
    raise UsageError(f"this version cannot read {uri!r}", code="store-scheme", hint="only file:// is known")
