"""Opening files below a folder without ever leaving it: one component at a time, following no link.

Checking a path and then opening it leaves a gap in which a folder can be swapped for a link. Here each folder is
opened relative to the one before (openat with O_NOFOLLOW), so what was checked is what is used.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cloudtune.errors import StoreError
from cloudtune.stores.base import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path. Raises StoreError for one that is absolute, empty or climbs."""
    parts = tuple(path.split("/"))
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{path!r} is not a path inside the folder", code="store-bad-path")
    return parts


def entry_of(path: str, size: int) -> Entry | None:
    """What a bucket's object is, its name relative to the root; None for the mark of the root itself.

    A bucket has neither folders nor links: an empty object whose name ends with a slash is a console's mark for a folder,
    and a name that is no plain path (empty parts, ``..``) is ``other``, which nobody reads.
    """
    if path.endswith("/") and size == 0:
        return Entry(path.rstrip("/"), "folder") if path.strip("/") else None
    try:
        parts_of(path)
    except StoreError:
        return Entry(path, "other")
    return Entry(path, "file", size)


@contextmanager
def opened_root(root: Path) -> Iterator[int]:
    """The root folder's descriptor; the root itself may not be a link. Raises StoreError."""
    try:
        fd = os.open(root, _FOLDER)
    except OSError as error:
        raise refusal(error, str(root)) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_parent(root: int, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """(descriptor of the folder that holds ``path``, its last component). ``make``: make missing folders. Raises StoreError."""
    *folders, name = parts_of(path)
    fd = os.dup(root)
    try:
        for folder in folders:
            try:
                if make:
                    _make_folder(fd, folder)
                deeper = os.open(folder, _FOLDER, dir_fd=fd)
            except OSError as error:
                raise refusal(error, path) from error
            os.close(fd)
            fd = deeper
        yield fd, name
    finally:
        os.close(fd)


def open_plain_file(folder: int, name: str, path: str) -> int:
    """A descriptor for reading the plain file ``name``. Raises StoreError for links, devices, pipes, folders and hard links."""
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        raise refusal(error, path) from error
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1:
        return fd
    os.close(fd)
    what = "has a second name elsewhere (a hard link)" if stat.S_ISREG(facts.st_mode) else "is not a plain file"
    raise StoreError(f"the file {what}", where=path, code="store-not-a-file")


def _make_folder(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)


def refusal(error: OSError, path: str) -> StoreError:
    """The system's answer to an open as a StoreError."""
    if error.errno == errno.ENOENT:
        return StoreError("there is no such file", where=path, code="store-missing")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR):
        return StoreError("a link or something else that is no plain file or folder is in the way", where=path, code="store-not-a-file")
    return StoreError(f"cannot be used: {error.strerror}", where=path, hint="check permissions and free disk space")
