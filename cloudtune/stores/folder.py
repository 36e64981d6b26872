"""A folder of this machine as a Store. Follows no link and reads no device, pipe or hard-linked file."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cloudtune.errors import StoreError
from cloudtune.stores.base import Entry, Kind
from cloudtune.stores.walking import open_plain_file, opened_parent, opened_root, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20


class FolderStore:
    """Files below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write under a temporary name, then rename: a reader sees the whole file or none."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(error, str(self._root)) from error
        temporary = f".coming-{secrets.token_hex(8)}"
        with opened_root(self._root) as root, opened_parent(root, path, make=True) as (folder, name):
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
                with os.fdopen(fd, "wb") as file:
                    file.writelines(chunks)
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise StoreError(f"cannot be written: {error.strerror}", where=path, hint="check the free disk space") from error
            finally:
                _unlink(temporary, folder)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Everything below the root whose path begins with ``prefix``, folders before their content, sorted by name."""
        try:
            with opened_root(self._root) as root:
                yield from (entry for entry in _entries(root, "") if entry.path.startswith(prefix))
        except StoreError as error:
            if error.code != "store-missing":
                raise

    def fetch(self, path: str, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, in chunks."""
        with opened_root(self._root) as root, opened_parent(root, path) as (folder, name):
            fd = open_plain_file(folder, name, path)
        with os.fdopen(fd, "rb") as file:
            try:
                file.seek(start)
                while chunk := file.read(_CHUNK):
                    yield chunk
            except OSError as error:
                raise StoreError(f"cannot be read: {error.strerror}", where=path) from error


def _entries(folder: int, before: str) -> Iterator[Entry]:
    for name in sorted(os.listdir(folder)):
        path = f"{before}{name}"
        try:
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it went away while we were listing
        kind = _kind(facts.st_mode)
        yield Entry(path, kind, facts.st_size if kind == "file" else 0)
        if kind == "folder":
            with opened_parent(folder, f"{name}/x") as (inner, _):
                yield from _entries(inner, f"{path}/")


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
