"""The folder that results arrive in: each file whole, checked and on the disk before it gets its name.

Bytes go to ``.incoming/<sha256>`` in the same folder and are renamed when size and digest are right, so a crash at any
point leaves files that are right, or a part that the next try goes on with. The names themselves are on the disk after
``flush`` or at the end. Nothing outside the folder is touched, whatever names and links were planted in it. One process at
a time, by a lock on the folder itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from cloudtune.errors import StoreError
from cloudtune.stores.walking import open_plain_file, opened_parent, opened_root, refusal

if TYPE_CHECKING:
    from pathlib import Path

INCOMING = ".incoming"
_WRITE_BYTES = 1 << 18
"""At a time: one write of 8 MiB takes the kernel (ext4) seven times as long as 32 of these, measured 2026-11-26."""
_LARGE_BYTES = 16 << 20
"""From this size on, a file goes to the disk while it comes."""
Fetch = Callable[[int], Iterator[bytes]]
"""Gives a file's bytes from an offset on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to bring: ``path`` below the destination, its size in bytes and sha256."""

    path: str
    bytes: int
    sha256: str


@contextmanager
def opened_destination(folder: Path) -> Iterator[Destination]:
    """The destination at ``folder``, made when missing and locked. Raises StoreError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder cannot be made: {error.strerror}", where=str(folder), hint="choose another with --to") from error
    with opened_root(folder) as root:
        try:
            fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                "another process is collecting into this folder", where=str(folder), code="store-busy", hint="wait for it to end"
            ) from error
        destination = Destination(root)
        try:
            yield destination
        finally:
            destination.tidy()
            destination.flush()


class Destination:
    """Brings files below the folder of an open descriptor."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._renamed: set[str] = set()
        """Folders with names that are not known to be on the disk yet."""

    def has(self, wanted: Wanted) -> bool:
        """Whether the file is there already, with the right content. Raises StoreError when something else has its name."""
        try:
            with opened_parent(self._root, wanted.path) as (folder, name):
                fd = open_plain_file(folder, name, wanted.path)
        except StoreError as error:
            if error.code == "store-missing":
                return False
            raise
        with os.fdopen(fd, "rb") as file:
            return os.fstat(fd).st_size == wanted.bytes and hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256

    def receive(self, wanted: Wanted, fetch: Fetch) -> None:
        """Bring one file, going on from an earlier part. Raises StoreError when the bytes are not the ones wanted."""
        part = f"{INCOMING}/{wanted.sha256}"
        try:
            if not self._fill(part, wanted, fetch):
                self._fill(part, wanted, fetch)  # the earlier part was not the beginning of this file: once more, from zero
        except StoreError:
            self._forget_if_empty(part)
            raise
        self._name(part, wanted.path)

    def receive_unchecked(self, path: str, chunks: Iterator[bytes], *, listed: int | None = None) -> int:
        """Bring a file that nobody vouches for, such as a log, whole or not at all; returns its size in bytes.

        ``listed``: the size that it should have. Raises StoreError (``store-truncated``) for another one.
        """
        part = f"{INCOMING}/unchecked"
        with self._part(part) as file:
            file.truncate(0)
            size = sum(_write(file, chunk, path) for chunk in chunks)
            os.fdatasync(file.fileno())
        if listed not in (None, size):
            self._forget(part)
            raise StoreError(f"the file has {size} bytes, {listed} were listed", where=path, code="store-truncated")
        self._name(part, path)
        return size

    def tidy(self) -> None:
        """Remove the folder of parts when nothing is in it."""
        with suppress(OSError):
            os.rmdir(INCOMING, dir_fd=self._root)

    def flush(self) -> None:
        """Bring the names of all files so far onto the disk; once for a folder, since each flush waits for the disk."""
        while self._renamed:
            with suppress(StoreError), opened_parent(self._root, f"{self._renamed.pop()}x") as (folder, _):
                os.fsync(folder)

    def _fill(self, part: str, wanted: Wanted, fetch: Fetch) -> bool:
        """Complete the part; False when it had an earlier beginning that turned out wrong and is now gone."""
        with self._part(part) as file:
            if os.fstat(file.fileno()).st_size > wanted.bytes:
                file.truncate(0)
            digest = hashlib.file_digest(file, "sha256")
            had = size = file.tell()
            for chunk in fetch(had):
                size += len(chunk)
                if size > wanted.bytes:
                    break
                digest.update(chunk)
                _write(file, chunk, wanted.path)
                _begin_writing_back(file, size, len(chunk))
            if size < wanted.bytes:
                raise _wrong(wanted, f"ends after {size} of {wanted.bytes} bytes", "store-truncated")
            if size == wanted.bytes and digest.hexdigest() == wanted.sha256:
                os.fdatasync(file.fileno())
                return True
        self._forget(part)
        if had:
            return False
        if size > wanted.bytes:
            raise _wrong(wanted, f"is larger than the {wanted.bytes} bytes it should have", "store-grown")
        raise _wrong(wanted, "has another content than the job wrote", "store-digest")

    @contextmanager
    def _part(self, part: str) -> Iterator[FileIO]:
        """The part opened for reading and writing at its beginning; it must be a plain file with no second name."""
        with opened_parent(self._root, part, make=True) as (folder, name):
            try:
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=folder)
            except OSError as error:
                raise refusal(error, part) from error
        with FileIO(fd, "r+") as file:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                raise StoreError("something that is no plain file is in the way", where=part, code="store-not-a-file")
            yield file

    def _forget(self, part: str) -> None:
        with opened_parent(self._root, part) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def _forget_if_empty(self, part: str) -> None:
        with suppress(FileNotFoundError, StoreError), opened_parent(self._root, part) as (folder, name):
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) and facts.st_size == 0:
                os.unlink(name, dir_fd=folder)

    def _name(self, part: str, path: str) -> None:
        """Give a finished part its name, in place of an older file; never in place of anything else."""
        with opened_parent(self._root, part) as (incoming, source), opened_parent(self._root, path, make=True) as (folder, name):
            try:
                if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise StoreError("something that is no plain file has its name", where=path, code="store-not-a-file")
            except FileNotFoundError:
                pass
            os.rename(source, name, src_dir_fd=incoming, dst_dir_fd=folder)
        # The folders on the way as well: one of them may be new, and its name is in the one above it.
        self._renamed.update(path[:end] for end in range(len(path)) if end == 0 or path[end - 1] == "/")


def _write(file: FileIO, chunk: bytes, path: str) -> int:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view[:_WRITE_BYTES]) :]
    except OSError as error:
        raise StoreError(
            f"cannot be written: {error.strerror}", where=path, hint="check the free disk space, then collect again; it goes on from here"
        ) from error
    return len(chunk)


def _begin_writing_back(file: FileIO, size: int, new: int) -> None:
    """Let the disk begin with the ``new`` bytes at the end of ``size``, so that the flush at the end finds little left. Advice only."""
    if size >= _LARGE_BYTES and hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), size - new, new, os.POSIX_FADV_DONTNEED)


def _wrong(wanted: Wanted, what: str, code: str) -> StoreError:
    return StoreError(
        f"the file {what}", where=wanted.path, code=code, hint="collect again; when it stays so, the job's results are damaged"
    )
