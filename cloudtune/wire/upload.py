"""Many files into one bucket: what is there already stays, large files go in parts, an interrupted upload goes on.

Keys name their content (they hold its digest), so an object with the right size and digest need not be sent again, and
parts that an earlier process left behind are taken over after their checksums were compared. Bodies above 1 MiB are read
from the disk while they are sent: memory does not grow with files or threads.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import StagingError, StoreError
from cloudtune.units import gib
from cloudtune.wire.s3 import DIGEST, Bucket, Head, asking, encryption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

THREADS: Final = 10
READERS: Final = 4
PART_BYTES: Final = 8 << 20
WHOLE_BYTES: Final = 16 << 20
"""A file up to this size is one request."""
IN_MEMORY_BYTES: Final = 1 << 20
"""A file up to this size is read at once: for a body that is a file botocore first asks the service whether it may come."""
MOST_PARTS: Final = 9_000  # the service takes 10,000
STALE: Final = timedelta(days=14)
"""An object older than this is sent again: a bucket's rule may remove old ones while a job waits for its machine."""
_SAY_SECONDS = 2.0
_READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Upload:
    """One file to bring: content or place on the disk, its size in bytes and its sha256."""

    key: str
    source: bytes | Path
    bytes: int
    sha256: str


@dataclass
class _Tally:
    """Counts bytes that have arrived and says so now and then."""

    total: int
    say: Callable[[str], None]
    done: int = 0
    said: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            if time.monotonic() - self.said < _SAY_SECONDS:
                return
            self.said = time.monotonic()
        self.say(f"uploaded {gib(self.done)} of {gib(self.total)}")


def describe_all(sources: Sequence[bytes | Path]) -> list[tuple[int, str]]:
    """Size in bytes and sha256 of each, several files at once. Raises StagingError for a file that cannot be read."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
        return list(pool.map(describe, sources))


def describe(source: bytes | Path) -> tuple[int, str]:
    """Size in bytes and sha256. Raises StagingError for a file that cannot be read."""
    if isinstance(source, bytes):
        return len(source), hashlib.sha256(source).hexdigest()
    try:
        with source.open("rb", buffering=0) as file:
            return _digested(file)
    except OSError as error:
        raise StagingError(f"the file cannot be read: {error.strerror}", where=str(source), hint="check the file") from error


def _digested(file: io.RawIOBase) -> tuple[int, str]:
    digest, size, room = hashlib.sha256(), 0, memoryview(bytearray(_READ_BYTES))
    while count := file.readinto(room):
        digest.update(room[:count])
        size += count
    return size, digest.hexdigest()


def upload_all(bucket: Bucket, uploads: Sequence[Upload], prefix: str, say: Callable[[str], None], *, key_id: str | None = None) -> int:
    """Bring every file; returns the bytes that were sent. ``prefix``: beginning of all the keys, for looking what is there.

    Raises what ``asking`` raises, and StagingError when a file cannot be read or is not what was said of it.
    """
    there = {head.key: head for head in bucket.list(prefix)}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="s3-upload") as pool:
        try:
            kept = list(pool.map(partial(_is_there, bucket, there), uploads))
            missing = [one for one, known in zip(uploads, kept, strict=True) if not known]
            tally = _Tally(sum(one.bytes for one in missing), say)
            if missing:
                say(f"uploading {len(missing)} file{'s' if len(missing) > 1 else ''} ({gib(tally.total)}) to {bucket.where(prefix)}")
            small = [one for one in missing if one.bytes <= WHOLE_BYTES or isinstance(one.source, bytes)]
            list(pool.map(partial(_put, bucket, tally, key_id), small))
            for one in missing:
                if one not in small:
                    _in_parts(bucket, one, pool, tally, key_id)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return tally.total


def _is_there(bucket: Bucket, there: dict[str, Head], one: Upload) -> bool:
    listed = there.get(one.key)
    if listed is None or listed.bytes != one.bytes:
        return False
    head = bucket.head(one.key)
    return head is not None and (head.bytes, head.sha256) == (one.bytes, one.sha256) and _age(head) < STALE


def _age(head: Head) -> timedelta:
    from datetime import UTC, datetime

    return datetime.now(UTC) - head.written


def _put(bucket: Bucket, tally: _Tally, key_id: str | None, one: Upload) -> None:
    if isinstance(one.source, bytes):
        bucket.put(one.key, one.source, sha256=one.sha256, key_id=key_id)
    else:
        with _Slice(one.source, 0, one.bytes) as body:
            content = body.readall() if one.bytes <= IN_MEMORY_BYTES else body
            bucket.put(one.key, content, sha256=one.sha256, key_id=key_id)
    tally.add(one.bytes)


def _in_parts(bucket: Bucket, one: Upload, pool: ThreadPoolExecutor, tally: _Tally, key_id: str | None) -> None:
    """One large file. Another process may finish the same upload first: then its object is looked at, or it is begun again."""
    try:
        _multipart(bucket, one, pool, tally, key_id, _unfinished(bucket, one.key))
    except StoreError as error:
        if error.code != "store-no-upload":
            raise
        head = bucket.head(one.key)
        if head is None or head.sha256 != one.sha256:
            _multipart(bucket, one, pool, tally, key_id, None)


def _multipart(bucket: Bucket, one: Upload, pool: ThreadPoolExecutor, tally: _Tally, key_id: str | None, upload_id: str | None) -> None:
    where = {"Bucket": bucket.name, "Key": one.key}
    known = _parts(bucket, one.key, upload_id) if upload_id else {}
    with asking(bucket.login, bucket.where(one.key)):
        if upload_id is None:
            answer = bucket.client.create_multipart_upload(
                **where, Metadata={DIGEST: one.sha256}, ChecksumAlgorithm="CRC32", **encryption(key_id)
            )
            upload_id = str(answer["UploadId"])
    size = part_bytes(one.bytes)
    sends = [
        _Send(bucket, one, upload_id, number, start, min(size, one.bytes - start), known.get(number))
        for number, start in enumerate(range(0, one.bytes, size), 1)
    ]
    parts = list(pool.map(partial(_send, tally), sends))
    with asking(bucket.login, bucket.where(one.key)):
        bucket.client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})


def part_bytes(size: int) -> int:
    """Bytes of one part of a file: the same for the same file, so that another process can go on."""
    needed = -(-size // MOST_PARTS)
    return max(PART_BYTES, -(-needed // (1 << 20)) * (1 << 20))


@dataclass(frozen=True, slots=True)
class _Send:
    bucket: Bucket
    one: Upload
    upload_id: str
    number: int
    start: int
    size: int
    known: dict[str, Any] | None


def _send(tally: _Tally, part: _Send) -> dict[str, Any]:
    """Bring one part, unless it is there; its entry in the list that completes the upload."""
    if isinstance(part.one.source, bytes):
        raise TypeError("content in memory is never sent in parts")
    with _Slice(part.one.source, part.start, part.size) as body:
        answer = part.known if part.known and _same(part.known, body) else None
        if answer is None:
            with asking(part.bucket.login, part.bucket.where(part.one.key)):
                answer = part.bucket.client.upload_part(
                    Bucket=part.bucket.name, Key=part.one.key, UploadId=part.upload_id, PartNumber=part.number, Body=body,
                    ChecksumAlgorithm="CRC32",
                )  # fmt: skip
    tally.add(part.size)
    checksum = {"ChecksumCRC32": answer["ChecksumCRC32"]} if answer.get("ChecksumCRC32") else {}
    return {"PartNumber": part.number, "ETag": answer["ETag"], **checksum}


def _same(known: dict[str, Any], body: _Slice) -> bool:
    """Whether a part that is there is ours: its size and checksum, or its MD5 where a service lists no checksum."""
    if known.get("Size") != len(body):
        return False
    checksum, md5 = 0, hashlib.md5(usedforsecurity=False)
    while chunk := body.read(1 << 20):
        checksum = zlib.crc32(chunk, checksum)
        md5.update(chunk)
    body.seek(0)
    if known.get("ChecksumCRC32"):
        return bool(known["ChecksumCRC32"] == base64.b64encode(checksum.to_bytes(4, "big")).decode())
    return bool(known["ETag"].strip('"') == md5.hexdigest())


def _unfinished(bucket: Bucket, key: str) -> str | None:
    """The newest upload of this very key that nobody completed."""
    with asking(bucket.login, bucket.where(key)):
        answer = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=key)
    ours = [upload for upload in answer.get("Uploads", ()) if upload["Key"] == key]
    return str(max(ours, key=lambda upload: upload["Initiated"])["UploadId"]) if ours else None


def _parts(bucket: Bucket, key: str, upload_id: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    marker: dict[str, int] = {}
    while True:
        with asking(bucket.login, bucket.where(key)):
            page = bucket.client.list_parts(Bucket=bucket.name, Key=key, UploadId=upload_id, **marker)
        found.update({part["PartNumber"]: part for part in page.get("Parts", ())})
        if not page.get("IsTruncated"):
            return found
        marker = {"PartNumberMarker": page["NextPartNumberMarker"]}


class _Slice(io.RawIOBase):
    """A stretch of a file as the body of a request: seekable, so that it can be sent again. Raises StagingError."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._path, self._start, self._size, self._at = path, start, size, 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise StagingError(f"the file cannot be read: {error.strerror}", where=str(path), hint="check the file") from error
        self._file.seek(start)

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self._at + offset if whence == 1 else self._size + offset
        self._file.seek(self._start + self._at)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        # More than was asked for: urllib3 asks for 16 KiB at a time and sends whatever it gets, so a part would be 512 reads and sends.
        left = self._size - self._at
        wanted = left if size is None or size < 0 else min(max(size, _READ_BYTES), left)
        if wanted <= 0:
            return b""
        content = self._file.read(wanted)
        if not content:
            raise StagingError("the file became shorter while it was uploaded", where=str(self._path), hint="run the command again")
        self._at += len(content)
        return content

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
