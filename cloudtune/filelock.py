"""One file lock, the kernel's own (flock): it vanishes with its holder, so a crash leaves nothing to clean up.

The lock belongs to the open file, not to a process id: it is inherited by children that get the descriptor, and
it is free the moment the last of them is gone. That makes "is it held" the one liveness question that neither a
reused process id nor a restart of the machine can answer wrongly. It does no work besides.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudtune.clock import Clock


class FileLock:
    """A held lock on ``path``; ``fd`` may be given to a child, which then holds the lock too."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def try_acquire(cls, path: Path) -> FileLock | None:
        """The lock on ``path`` (made when missing), or None while somebody else holds it. Raises OSError."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            if _is_still(path, fd):
                return cls(path, fd)
            os.close(fd)  # its last holder removed the file between our open and our lock

    @classmethod
    def acquire(cls, path: Path, clock: Clock, seconds: float) -> FileLock | None:
        """Like ``try_acquire``, waiting up to ``seconds``."""
        deadline = clock.monotonic() + seconds
        while (lock := cls.try_acquire(path)) is None and clock.monotonic() < deadline:
            clock.sleep(0.02)
        return lock

    def release(self) -> None:
        """Close our descriptor. A child that inherited it keeps the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Remove the file while we hold it, then release."""
        self.path.unlink(missing_ok=True)
        self.release()


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock on ``path`` now; a missing file is free. Changes nothing. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def held(path: Path, clock: Clock, seconds: float = 0.0) -> Iterator[FileLock | None]:
    """``with held(path, clock) as lock``: the lock, or None when somebody else keeps it; the file is removed at the end.

    ``seconds``: how long to wait for it.
    """
    lock = FileLock.acquire(path, clock, seconds)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.remove()


def _is_still(path: Path, fd: int) -> bool:
    try:
        there, ours = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
