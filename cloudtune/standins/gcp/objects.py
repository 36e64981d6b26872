"""Buckets and objects: generations, preconditions, checksums, listing. Bytes lie in files, the rest in memory. No HTTP here.

Written instead of taking gcp-storage-emulator: that one ignores generation preconditions, accepts wrong checksums and
bucket names that Google refuses, and holds every object in memory (tests compare the two where they agree).
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from cloudtune.standins.gcp.answers import ApiError

_PIECE = 1024 * 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_KEPT = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "metadata",
    "customTime",
    "storageClass",
)


@dataclass(frozen=True)
class Conditions:
    """Preconditions on the generation (0 = there must be none) and the metageneration."""

    match: int | None = None
    not_match: int | None = None
    meta_match: int | None = None

    def check(self, found: Stored | None) -> None:
        """Raises ApiError 412 when one does not hold."""
        generation = found.generation if found else 0
        bad = (
            (self.match is not None and generation != self.match)
            or (self.not_match is not None and generation == self.not_match)
            or (self.meta_match is not None and (found is None or found.metageneration != self.meta_match))
        )
        if bad:
            raise ConditionNotMet


class ConditionNotMet(ApiError):
    """412; Cloud Storage alone uses it."""

    def __init__(self) -> None:
        super().__init__("FAILED_PRECONDITION", "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")

    @property
    def http(self) -> int:
        return 412


@dataclass(frozen=True)
class Stored:
    """One generation of one object."""

    bucket: str
    name: str
    generation: int
    path: Path
    size: int
    crc32c: str
    md5: str
    created: datetime
    updated: datetime
    metageneration: int = 1
    fields: Mapping[str, Any] = field(default_factory=dict)

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to, not including, ``end``."""
        left = (self.size if end is None else end) - start
        with self.path.open("rb") as stream:
            stream.seek(start)
            while left > 0:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    return
                left -= len(piece)
                yield piece


@dataclass
class Bucket:
    """A bucket and its live objects by name."""

    name: str
    location: str
    created: datetime
    fields: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Stored] = field(default_factory=dict)
    metageneration: int = 1


@dataclass(frozen=True)
class Page:
    """One page of a listing; ``prefixes`` are the folders that a delimiter makes."""

    objects: tuple[Stored, ...]
    prefixes: tuple[str, ...]
    next_start: str


class ObjectStore:
    """All buckets. Thread-safe. ``now`` is the stand-in's clock; ``changed`` is called after every change, with the bucket's name."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self.folder = folder
        self.now = now
        self.buckets: dict[str, Bucket] = {}
        self.lock = threading.RLock()
        self._numbers = count(1)
        self._generation = int(now().timestamp() * 1e6)
        folder.mkdir(parents=True, exist_ok=True)

    def spool(self) -> Path:
        """A fresh file name for bytes on their way in."""
        return self.folder / f"part-{next(self._numbers)}"

    def make_bucket(self, name: str, location: str, fields: Mapping[str, Any]) -> Bucket:
        """Raises ApiError for names that Google refuses and for names that are taken."""
        if not _BUCKET.fullmatch(name) or _ADDRESS.fullmatch(name) or "goog" in name[:4] or ".." in name or "-." in name or ".-" in name:
            raise ApiError("INVALID_ARGUMENT", f"Invalid bucket name: '{name}'", "invalid")
        with self.lock:
            if name in self.buckets:
                text = "Your previous request to create the named bucket succeeded and you already own it."
                raise ApiError("ALREADY_EXISTS", text, "conflict")
            self.buckets[name] = Bucket(name, location.upper(), self.now(), dict(fields))
            return self.buckets[name]

    def bucket(self, name: str) -> Bucket:
        """Raises ApiError 404."""
        found = self.buckets.get(name)
        if found is None:
            raise ApiError("NOT_FOUND", "The specified bucket does not exist.", "notFound")
        return found

    def drop_bucket(self, name: str) -> None:
        """Only when it is empty."""
        with self.lock:
            if self.bucket(name).objects:
                raise ApiError("ALREADY_EXISTS", "The bucket you tried to delete is not empty.", "conflict")
            del self.buckets[name]

    def put(
        self,
        bucket: str,
        name: str,
        source: Path,
        fields: Mapping[str, Any],
        *,
        conditions: Conditions = Conditions(),
        digests: Mapping[str, str] | None = None,
    ) -> Stored:
        """Take the file ``source`` as the object's new generation. Raises ApiError for a wrong checksum or precondition."""
        check_name(name)
        crc32c, md5, size = digests_of(source)
        for label, told, right in (("CRC32C", "crc32c", crc32c), ("MD5 hash", "md5Hash", md5)):
            wanted = (digests or {}).get(told) or str(fields.get(told) or "")
            if wanted and wanted != right:
                source.unlink(missing_ok=True)
                raise ApiError("INVALID_ARGUMENT", f'Provided {label} "{wanted}" doesn\'t match calculated {label} "{right}".', "invalid")
        with self.lock:
            home = self.bucket(bucket)
            before = home.objects.get(name)
            try:
                conditions.check(before)
            except ConditionNotMet:
                source.unlink(missing_ok=True)
                raise
            self._generation = max(self._generation + 1, int(self.now().timestamp() * 1e6))
            path = self.folder / f"object-{next(self._numbers)}"
            source.replace(path)
            now = self.now()
            kept = {key: fields[key] for key in _KEPT if fields.get(key) is not None}
            stored = Stored(bucket, name, self._generation, path, size, crc32c, md5, now, now, fields=kept)
            home.objects[name] = stored
        if before is not None:
            before.path.unlink(missing_ok=True)
        return stored

    def put_bytes(self, bucket: str, name: str, data: bytes, fields: Mapping[str, Any] | None = None) -> Stored:
        """The same for bytes at hand."""
        place = self.spool()
        place.write_bytes(data)
        return self.put(bucket, name, place, fields or {})

    def get(self, bucket: str, name: str, *, generation: int | None = None, conditions: Conditions = Conditions()) -> Stored:
        """Raises ApiError 404 and 412."""
        found = self.bucket(bucket).objects.get(name)
        if found is None or (generation is not None and found.generation != generation):
            raise ApiError("NOT_FOUND", f"No such object: {bucket}/{name}", "notFound")
        conditions.check(found)
        return found

    def change(self, bucket: str, name: str, fields: Mapping[str, Any], conditions: Conditions) -> Stored:
        """New metadata under a new metageneration; a value of None takes a key away."""
        with self.lock:
            found = self.get(bucket, name, conditions=conditions)
            merged = {**found.fields, **{key: value for key, value in fields.items() if key in _KEPT}}
            if isinstance(fields.get("metadata"), dict):
                own = {**found.fields.get("metadata", {}), **fields["metadata"]}
                merged["metadata"] = {key: value for key, value in own.items() if value is not None}
            merged = {key: value for key, value in merged.items() if value is not None}
            changed = replace(found, fields=merged, metageneration=found.metageneration + 1, updated=self.now())
            self.bucket(bucket).objects[name] = changed
            return changed

    def delete(self, bucket: str, name: str, *, generation: int | None = None, conditions: Conditions = Conditions()) -> None:
        """Raises ApiError 404 and 412."""
        with self.lock:
            found = self.get(bucket, name, generation=generation, conditions=conditions)
            del self.bucket(bucket).objects[name]
        found.path.unlink(missing_ok=True)

    def page(self, bucket: str, prefix: str, delimiter: str, start: str, limit: int) -> Page:
        """Objects and folders after ``start`` in the order of their names' bytes, at most ``limit`` of both together."""
        with self.lock:
            names = sorted((name for name in self.bucket(bucket).objects if name.startswith(prefix)), key=str.encode)
            everything = dict(self.bucket(bucket).objects)
        objects: list[Stored] = []
        folders: list[str] = []
        last = ""
        for name in names:
            rest = name[len(prefix) :]
            folder = prefix + rest.split(delimiter, 1)[0] + delimiter if delimiter and delimiter in rest else ""
            if folder and folder in folders:
                continue
            if (folder or name).encode() <= start.encode() and start:
                continue
            if len(objects) + len(folders) == limit:
                return Page(tuple(objects), tuple(folders), last)
            if folder:
                folders.append(folder)
            else:
                objects.append(everything[name])
            last = folder or name
        return Page(tuple(objects), tuple(folders), "")


def check_name(name: str) -> None:
    """Google's rules for object names. Raises ApiError."""
    if not name or len(name.encode()) > 1024 or "\r" in name or "\n" in name or name in (".", ".."):
        raise ApiError("INVALID_ARGUMENT", f"Invalid object name: '{name[:80]}'", "invalid")


def digests_of(path: Path) -> tuple[str, str, int]:
    """crc32c and md5 in base64, and the size."""
    import google_crc32c

    crc: Any = google_crc32c.Checksum()
    md5, size = hashlib.md5(usedforsecurity=False), 0
    for piece in _read(path):
        crc.update(piece)
        md5.update(piece)
        size += len(piece)
    return base64.b64encode(crc.digest()).decode(), base64.b64encode(md5.digest()).decode(), size


def _read(path: Path) -> Iterable[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
