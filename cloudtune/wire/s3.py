"""Objects of one S3 bucket: look, list, put, and fetch in ranges with read-ahead. Decides nothing about what they mean.

    fetch      ranges of 8 MiB, the next ones asked for while the first is used; each is tried again when its
               connection breaks, and all must come from the same version of the object (If-Match)
    put        one request, whole or not at all, with a checksum that the service verifies

A bucket's read-ahead is limited over all its fetches together, so memory stays flat however many run at once.
"""

from __future__ import annotations

import base64
import re
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import AuthError, CloudtuneError, StoreError, ThrottledError, UnavailableError
from cloudtune.wire.aws import EXPIRED, NO_ANSWER, NO_LOGIN, TRANSFER, Facts, Login, facts_of, translating

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

RANGE_BYTES: Final = 8 << 20
AHEAD: Final = 10
"""Ranges that may be under way, or waiting to be used, over all fetches of a bucket."""
TRIES: Final = 5
DIGEST: Final = "sha256"
"""Name of the metadata that holds an object's digest: an ETag is none as soon as an object has parts or a key of its own."""
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Head:
    """One object: size in bytes, when it was written, and its digest when whoever wrote it gave one."""

    key: str
    bytes: int
    written: datetime
    sha256: str = ""


def asking(login: Login, where: str) -> AbstractContextManager[None]:
    """Translates what a call of S3 raises: StoreError, AuthError and the retryable two."""
    return translating(login, where, store_error)


def store_error(facts: Facts, where: str) -> CloudtuneError:
    """Our error for what S3 answered."""
    said = f"S3 answers: {facts.message[:300]}"
    if facts.code in EXPIRED or facts.code == NO_LOGIN:
        return AuthError(
            said, where=where, code="login", hint="log in again (aws sso login, or new keys), then run the command again; it goes on"
        )
    if facts.code in ("NoSuchBucket", "NoSuchUpload"):
        return StoreError(said, where=where, code="store-no-bucket" if facts.code == "NoSuchBucket" else "store-no-upload", hint=_DOCTOR)
    if facts.code in ("NoSuchKey", "NotFound", "404"):
        return StoreError("there is no such file", where=where, code="store-missing")
    if facts.code in ("BadDigest", "XAmzContentSHA256Mismatch"):
        return StoreError(said, where=where, code="store-digest", hint="the file changed while it was sent: run the command again")
    if facts.code in ("SlowDown", "ThrottlingException", "RequestLimitExceeded", "429"):
        return ThrottledError(said, where=where, hint="wait a moment and run the command again; it goes on from there")
    if facts.code == NO_ANSWER or facts.status >= 500:
        return UnavailableError(said, where=where, hint="check the network and run the command again; it goes on from there")
    if facts.status == 403:
        return AuthError(said, where=where, code="store-denied", hint=f"the login may not do this with the bucket; {_DOCTOR}")
    return StoreError(said, where=where, hint=_DOCTOR)


_DOCTOR = "see what is set up with: cloudtune doctor --provider aws"


class Bucket:
    """One bucket seen by one login. May be used by several threads."""

    def __init__(self, login: Login, name: str) -> None:
        self.login = login
        self.name = name
        self._slots = threading.BoundedSemaphore(AHEAD)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Any:
        return self.login.client("s3", pace=TRANSFER)

    def where(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def head(self, key: str) -> Head | None:
        """The object, or None when there is none."""
        try:
            with asking(self.login, self.where(key)):
                answer = self.client.head_object(Bucket=self.name, Key=key)
        except StoreError as error:
            if error.code == "store-missing":
                return None
            raise
        return Head(key, answer["ContentLength"], answer["LastModified"], answer.get("Metadata", {}).get(DIGEST, ""))

    def list(self, prefix: str) -> Iterator[Head]:
        """Every object whose key begins with ``prefix``, in the order of keys."""
        token: dict[str, str] = {}
        while True:
            with asking(self.login, self.where(prefix)):
                page = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, **token)
            for item in page.get("Contents", ()):
                yield Head(item["Key"], item["Size"], item["LastModified"])
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, body: Any, *, sha256: str = "", key_id: str | None = None, once: bool = False) -> None:
        """Write an object in one request. ``body``: bytes or a binary file. ``once``: an object that is there already stays.

        With ``sha256`` (hexadecimal, of the body) the service compares what arrives with it, and nothing is reckoned twice.
        """
        extra: dict[str, Any] = {"ChecksumAlgorithm": "CRC32"}
        if sha256:
            extra = {"Metadata": {DIGEST: sha256}, "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}
        if once:
            extra["IfNoneMatch"] = "*"
        try:
            with asking(self.login, self.where(key)):
                self.client.put_object(Bucket=self.name, Key=key, Body=body, **extra, **encryption(key_id))
        except StoreError as error:
            if not (once and _status(error.__cause__) in (409, 412)):
                raise

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is removed already."""
        with asking(self.login, self.where(key)):
            self.client.delete_object(Bucket=self.name, Key=key)

    def fetch(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from ``start`` on."""
        first = self._range(key, start, None)
        if first is None:
            return
        content, total, tag = first
        position = start + len(content)
        yield content
        if position < total:
            yield from self._ahead(key, position, total, tag)

    def _ahead(self, key: str, position: int, total: int, tag: str) -> Iterator[bytes]:
        """The rest, range by range in order; later ranges are asked for while there are free slots."""
        coming: deque[Future[bytes]] = deque()
        try:
            while position < total or coming:
                while position < total and self._slots.acquire(blocking=False):
                    coming.append(self._submit(key, position, tag))
                    position += RANGE_BYTES
                if coming:
                    first = coming.popleft()
                    try:
                        content = first.result()
                    finally:
                        self._slots.release()
                else:  # other fetches have every slot: go on without one
                    content = self._whole(key, position, tag)
                    position += len(content)
                yield content
        finally:
            for future in coming:
                future.cancel()
                self._slots.release()

    def _submit(self, key: str, position: int, tag: str) -> Future[bytes]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="s3-fetch")
            return self._pool.submit(self._whole, key, position, tag)

    def _whole(self, key: str, position: int, tag: str) -> bytes:
        found = self._range(key, position, tag)
        if found is None:
            raise StoreError("the object became shorter while it was fetched", where=self.where(key), code="store-changed")
        return found[0]

    def _range(self, key: str, position: int, tag: str | None) -> tuple[bytes, int, str] | None:
        """(bytes, size of the object, ETag) of one range; None when the object ends before it. Broken connections are tried again."""
        wanted: dict[str, Any] = {"IfMatch": tag} if tag else {}
        for attempt in range(1, TRIES + 1):
            try:
                with asking(self.login, self.where(key)):
                    answer = self.client.get_object(
                        Bucket=self.name, Key=key, Range=f"bytes={position}-{position + RANGE_BYTES - 1}", **wanted
                    )
                    with answer["Body"] as body:
                        content: bytes = body.read()
            except UnavailableError:
                if attempt == TRIES:
                    raise
            except StoreError as error:
                status = _status(error.__cause__)
                if status == 416:
                    return None
                if status == 412:
                    raise StoreError(
                        "the object was replaced while it was fetched", where=self.where(key), code="store-changed", hint="collect again"
                    ) from error
                raise
            else:
                match = _TOTAL.fullmatch(answer.get("ContentRange", ""))
                return content, int(match[1]) if match else position + len(content), answer["ETag"]
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """End the threads of the read-ahead; the bucket may be used again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def encryption(key_id: str | None) -> dict[str, str]:
    """Arguments of a write with a key of the user's; the bucket's own setting holds without one."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_id} if key_id else {}


def _status(error: BaseException | None) -> int:
    return facts_of(error).status if error is not None else 0


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` → (bucket, key). Raises StoreError for anything else."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.\-]{1,61}[a-z0-9])(?:/(.*))?", uri, re.DOTALL)
    if not match:
        raise StoreError(f"{uri!r} is no place in S3", code="store-bad-uri", hint="it looks like s3://bucket/folder/")
    return match[1], match[2] or ""
