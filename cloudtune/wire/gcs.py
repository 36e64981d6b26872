"""One bucket of Cloud Storage: small objects with preconditions, ranges at once, and uploads that go on where they broke off.

Used by staging, the job protocol and the store. Every call has a deadline; what is worth another try is tried again here.
Raises StoreError, AuthError, ThrottledError and UnavailableError.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cloudtune.errors import AuthError, CloudtuneError, StoreError, ThrottledError, UnavailableError
from cloudtune.wire.google import CORRUPT, LOGIN, TIMEOUT, Facts, Login, ask, facts_of, google_errors, no_login, patiently

if TYPE_CHECKING:
    from concurrent.futures import Future

RANGE_BYTES: Final = 8 << 20
AT_ONCE: Final = 4
_ANSWER = TypeVar("_ANSWER")
_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(?P<path>.*))?")
_AGAIN = "it is tried again by itself; then run the command again"


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an object without reading it."""

    name: str
    bytes: int
    generation: int
    crc32c: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def split(uri: str) -> tuple[str, str]:
    """``gs://bucket/path`` → (bucket, path). Raises StoreError for anything else."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise StoreError(f"{uri!r} is no address in Cloud Storage", code="store-scheme", hint="it looks like gs://bucket/folder")
    return match["bucket"], match["path"] or ""


@contextmanager
def asking(login: Login, where: str) -> Iterator[None]:
    """Translates what a call raises, and forgets a login that has died so that the next call takes the new one."""
    try:
        yield
    except CloudtuneError:
        raise
    except google_errors() as error:
        facts = facts_of(error)
        if facts.name in (LOGIN, "UNAUTHENTICATED"):
            login.renew()
        raise _error(facts, where) from error


def _error(facts: Facts, where: str) -> CloudtuneError:
    said = " ".join(facts.message.split())[:300]
    if facts.name in (LOGIN, "UNAUTHENTICATED"):
        return no_login(said)
    if facts.status == 404:
        gone = "bucket" in said and "no such object" not in said.lower()
        code, what = ("store-no-bucket", "there is no such bucket") if gone else ("store-missing", "there is no such file")
        return StoreError(what, where=where, code=code, hint="check the setting gcp_bucket" if gone else "")
    if facts.status == 412:
        return StoreError("somebody else wrote it meanwhile", where=where, code="store-precondition")
    if facts.status == 403:
        return AuthError(f"Cloud Storage refuses: {said}", where=where, hint="you need roles/storage.objectUser on the bucket")
    if facts.name == CORRUPT or (facts.status == 400 and "match" in said):
        return StoreError(f"the bytes were damaged on their way: {said}", where=where, code="store-digest", hint="run the command again")
    if facts.status == 429:
        return ThrottledError(f"Cloud Storage is asked too often: {said}", where=where, hint=_AGAIN)
    if facts.status == 0 or facts.status >= 500 or facts.status == 408:
        return UnavailableError(f"Cloud Storage gave no answer: {said}", where=where, hint=f"check the network; {_AGAIN}")
    return StoreError(f"Cloud Storage refuses: {said}", where=where, hint="see what is set up with: cloudtune doctor --provider gcp")


class Bucket:
    """One bucket. ``sleep``: how to wait between tries; ``range_bytes``: how much is asked for at once."""

    def __init__(
        self, name: str, login: Login | None = None, *, sleep: Callable[[float], None] = time.sleep, range_bytes: int = RANGE_BYTES
    ) -> None:
        self.name = name
        self.range_bytes = range_bytes
        self.login = login or Login()
        self._sleep = sleep
        self._client: Any = None

    def where(self, name: str) -> str:
        """The object's address."""
        return f"gs://{self.name}/{name}"

    def head(self, name: str) -> Head | None:
        """What is known of the object; None when there is none."""

        def call() -> Head | None:
            blob = self._bucket().get_blob(name, timeout=TIMEOUT, retry=None)
            return _head(blob) if blob is not None else None

        return self._tried(call, name)

    def read(self, name: str) -> tuple[bytes, int]:
        """(content, generation) of a small object."""
        head = self.head(name)
        if head is None:
            raise StoreError("there is no such file", where=self.where(name), code="store-missing")
        return self._range(head, 0, head.bytes) if head.bytes else b"", head.generation

    def write(self, name: str, data: bytes, *, generation: int | None = None) -> int:
        """Write a small object whole; its new generation. ``generation``: the one to replace (0: only where there is none)."""

        def call() -> int:
            blob = self._bucket().blob(name)
            blob.upload_from_string(
                data, content_type="application/octet-stream", if_generation_match=generation, timeout=TIMEOUT, retry=None
            )
            return int(blob.generation or 0)

        return self._tried(call, name)

    def tail(self, name: str, most: int) -> bytes:
        """The last ``most`` bytes; empty without the object."""
        head = self.head(name)
        return self._range(head, max(0, head.bytes - most), head.bytes) if head and head.bytes else b""

    def each(self, prefix: str) -> Iterator[Head]:
        """Every object whose name begins with ``prefix``, by name."""
        page, pages = "", self._pages(prefix)
        while True:
            found, page = pages(page)
            yield from found
            if not page:
                return

    def fetch(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, of one generation, several ranges at once."""
        head = self.head(name)
        if head is None:
            raise StoreError("there is no such file", where=self.where(name), code="store-missing")
        starts = iter(range(start, head.bytes, self.range_bytes))
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="gcs") as pool:
            coming: deque[Future[bytes]] = deque()
            try:
                while True:
                    while len(coming) < AT_ONCE and (at := next(starts, None)) is not None:
                        coming.append(pool.submit(self._range, head, at, min(head.bytes, at + self.range_bytes)))
                    if not coming:
                        return
                    yield coming.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def delete(self, name: str) -> None:
        """Remove the object; nothing when there is none."""

        def call() -> None:
            self._bucket().blob(name).delete(timeout=TIMEOUT, retry=None)

        try:
            self._tried(call, name)
        except StoreError as error:
            if error.code != "store-missing":
                raise

    def facts(self) -> dict[str, Any]:
        """The bucket's own properties. Raises StoreError ``store-no-bucket``."""
        return self._tried(lambda: ask(self.login, "GET", f"{base_url()}/storage/v1/b/{self.name}"), "")

    def allowed(self, permissions: tuple[str, ...]) -> frozenset[str]:
        """Those of ``permissions`` that the login has on the bucket."""
        return self._tried(lambda: frozenset(self._bucket().test_iam_permissions(list(permissions), timeout=TIMEOUT, retry=None)), "")

    def _pages(self, prefix: str) -> Callable[[str], tuple[list[Head], str]]:
        def one(token: str) -> tuple[list[Head], str]:
            listed = self._opened().list_blobs(self.name, prefix=prefix, page_token=token or None, timeout=TIMEOUT, retry=None)
            page = next(listed.pages, ())
            return [_head(blob) for blob in page], str(listed.next_page_token or "")

        return lambda token: self._tried(lambda: one(token), prefix)

    def _range(self, head: Head, start: int, end: int) -> bytes:
        def call() -> bytes:
            blob = self._bucket().blob(head.name)
            found: bytes = blob.download_as_bytes(
                start=start, end=end - 1, raw_download=True, if_generation_match=head.generation, checksum=None, timeout=TIMEOUT, retry=None
            )
            return found

        return self._tried(call, head.name)

    def _tried(self, call: Callable[[], _ANSWER], name: str) -> _ANSWER:
        def once() -> _ANSWER:
            self.login.credentials  # noqa: B018 - raises our errors for a missing library or login before google_errors() needs them
            with asking(self.login, self.where(name)):
                return call()

        return patiently(once, self._sleep)

    def _bucket(self) -> Any:
        return self._opened().bucket(self.name)

    def _opened(self) -> Any:
        if self._client is None:
            from google.cloud import storage

            self._client = storage.Client(project="unused", credentials=self.login.credentials)
        return self._client


def base_url() -> str:
    """Where Cloud Storage's own paths begin."""
    return (os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com").rstrip("/")


def _head(blob: Any) -> Head:
    return Head(str(blob.name), int(blob.size or 0), int(blob.generation or 0), str(blob.crc32c or ""), dict(blob.metadata or {}))
