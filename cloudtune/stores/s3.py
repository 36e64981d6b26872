"""A place in S3 as a Store: ``s3://bucket/folder/``. Imports boto3 when the first object is asked for.

A bucket has neither folders nor links. A key that is no plain path below the root (empty parts, ``..``) is listed as
``other`` and never read; a key that ends with a slash is a console's mark for a folder.
"""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TYPE_CHECKING, Any

from cloudtune.stores.base import Entry
from cloudtune.stores.walking import entry_of, parts_of
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket, asking, split
from cloudtune.wire.upload import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class S3Store:
    """Objects below one prefix of one bucket. Raises StoreError, and AuthError where the login is missing or may not."""

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @classmethod
    def at(cls, uri: str, login: Login | None = None) -> S3Store:
        """The store at ``s3://bucket/folder/``."""
        bucket, prefix = split(uri)
        return cls(Bucket(login or Login(), bucket), prefix)

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """Small content in one request, more in parts; either is whole or absent."""
        key = self._key(path)
        pieces = _of_size(chunks, PART_BYTES)
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None:
            self._bucket.put(key, first, sha256=hashlib.sha256(first).hexdigest())
        else:
            self._put_parts(key, chain([first, second], pieces))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below the root whose path begins with ``prefix``, sorted by key."""
        for head in self._bucket.list(f"{self._prefix}{prefix}"):
            if (entry := entry_of(head.key.removeprefix(self._prefix), head.bytes)) is not None:
                yield entry

    def fetch(self, path: str, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, several ranges at once."""
        yield from self._bucket.fetch(self._key(path), start)

    def _key(self, path: str) -> str:
        parts_of(path)
        return f"{self._prefix}{path}"

    def _put_parts(self, key: str, pieces: Iterator[bytes]) -> None:
        """Parts one after the other; given up, and removed, when the source or the service breaks."""
        where = {"Bucket": self._bucket.name, "Key": key}
        client = self._bucket.client
        with asking(self._bucket.login, self._bucket.where(key)):
            upload = {**where, "UploadId": client.create_multipart_upload(**where, ChecksumAlgorithm="CRC32")["UploadId"]}
        parts: list[dict[str, Any]] = []
        try:
            for number, piece in enumerate(pieces, 1):
                with asking(self._bucket.login, self._bucket.where(key)):
                    answer = client.upload_part(**upload, PartNumber=number, Body=piece, ChecksumAlgorithm="CRC32")
                parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
            with asking(self._bucket.login, self._bucket.where(key)):
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with asking(self._bucket.login, self._bucket.where(key)):
                client.abort_multipart_upload(**upload)
            raise


def _of_size(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``, the last one shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) > size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
