"""A job's view of its buckets below ``/gcs``: a folder kept equal to the buckets, both ways, as Cloud Storage FUSE shows them.

An approximation, by comparing every few hundred milliseconds: a file that has stood still for one look, or whose writer
has ended, becomes an object (FUSE writes it when it is closed); one that is rewritten again and again becomes one after
a few looks, as each rewriting closes it. Objects of others appear as files. Renames are deletions and creations; empty
folders are not kept; a file that is still being written when its writer is killed is lost.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudtune.standins.gcp.answers import ApiError
from cloudtune.standins.gcp.objects import ObjectStore, Stored

Signature = tuple[int, int]
PATIENCE = 3
"""Looks after which a file that changes between any two is taken as it is, if it stands still while it is copied."""


@dataclass
class BucketView:
    """``folder/BUCKET/object/name`` for every bucket; used by one thread."""

    store: ObjectStore
    folder: Path
    _known: dict[tuple[str, str], tuple[int, Signature]] = field(default_factory=dict)
    _moving: dict[tuple[str, str], tuple[Signature, int]] = field(default_factory=dict)

    def sync(self, *, closed: bool = False) -> None:
        """Bring both sides together. ``closed``: every writer has ended, so that files count as they are."""
        for bucket in list(self.store.buckets):
            (self.folder / bucket).mkdir(parents=True, exist_ok=True)
            self._outwards(bucket, closed=closed)
            self._inwards(bucket)

    def _outwards(self, bucket: str, *, closed: bool) -> None:
        home = self.folder / bucket
        here: set[str] = set()
        for path in [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]:
            name = path.relative_to(home).as_posix()
            here.add(name)
            key = (bucket, name)
            signature = _signature(path)
            if signature is None or self._known.get(key, (0, None))[1] == signature:
                continue
            seen, looks = self._moving.get(key, (None, 0))
            if closed or seen == signature or looks >= PATIENCE:
                self._upload(key, path, signature)
                self._moving.pop(key, None)
            else:
                self._moving[key] = (signature, looks + 1)
        for key in [key for key in self._known if key[0] == bucket and key[1] not in here]:
            generation, _ = self._known.pop(key)
            with suppress(ApiError):  # somebody else deleted or replaced it
                self.store.delete(*key, generation=generation)

    def _upload(self, key: tuple[str, str], path: Path, signature: Signature) -> None:
        place = self.store.spool()
        shutil.copyfile(path, place)
        if _signature(path) != signature:
            place.unlink()  # written to while it was copied: next time
            return
        stored = self.store.put(*key, place, {"contentType": "application/octet-stream"})
        self._known[key] = (stored.generation, signature)

    def _inwards(self, bucket: str) -> None:
        with self.store.lock:
            live = dict(self.store.bucket(bucket).objects)
        for name, stored in live.items():
            key = (bucket, name)
            if self._known.get(key, (0, None))[0] != stored.generation and key not in self._moving:
                self._download(key, stored)
        for key in [key for key in self._known if key[0] == bucket and key[1] not in live]:
            del self._known[key]
            self._path(key).unlink(missing_ok=True)

    def _download(self, key: tuple[str, str], stored: Stored) -> None:
        path = self._path(key)
        if key[1].endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            return
        part = self.folder.parent / f"{self.folder.name}.part"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored.path, part)
            part.chmod(0o666)
            part.replace(path)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
            return  # replaced meanwhile, or an object whose name is also a folder: FUSE does not show it either
        signature = _signature(path)
        if signature is not None:
            self._known[key] = (stored.generation, signature)

    def _path(self, key: tuple[str, str]) -> Path:
        return self.folder / key[0] / key[1]


def _signature(path: Path) -> Signature | None:
    """Size and time of the last change; None when it is gone."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
