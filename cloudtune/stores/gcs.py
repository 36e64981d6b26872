"""A place in Cloud Storage as a Store: ``gs://bucket/folder/``. Imports Google's library when the first object is asked for.

A bucket has neither folders nor links. A name that is no plain path below the root (empty parts, ``..``) is listed as
``other`` and never read; a name that ends with a slash is a console's mark for a folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from cloudtune.stores.base import Entry
from cloudtune.stores.walking import entry_of, parts_of
from cloudtune.wire.gcs import Bucket, split
from cloudtune.wire.gcs_upload import Uploads, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SMALL_BYTES = 8 << 20


class GcsStore:
    """Objects below one prefix of one bucket. Raises StoreError, and AuthError where the login is missing or may not."""

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @classmethod
    def at(cls, uri: str) -> GcsStore:
        """The store at ``gs://bucket/folder/``."""
        bucket, prefix = split(uri)
        return cls(Bucket(bucket), prefix)

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """Small content in one request, more in chunks of a resumable upload; either is whole or absent."""
        name = self._name(path)
        with tempfile.TemporaryDirectory(prefix="cloudtune-put-") as folder:
            spool = Path(folder) / "content"
            with spool.open("wb") as file:
                file.writelines(chunks)
            if spool.stat().st_size <= SMALL_BYTES:
                self._bucket.write(name, spool.read_bytes())
            else:
                Uploads(self._bucket, Path(folder) / "notes", sleep).send(spool, name, fingerprint(spool))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below the root whose path begins with ``prefix``, sorted by name."""
        for head in self._bucket.each(f"{self._prefix}{prefix}"):
            if (entry := entry_of(head.name.removeprefix(self._prefix), head.bytes)) is not None:
                yield entry

    def fetch(self, path: str, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, several ranges at once."""
        yield from self._bucket.fetch(self._name(path), start)

    def _name(self, path: str) -> str:
        parts_of(path)
        return f"{self._prefix}{path}"
