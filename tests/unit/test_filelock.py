"""The file lock between processes, at the moment that matters: its holder removes the file while another one opens it."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path
from types import FrameType

from cloudtune.filelock import FileLock


def test_a_lock_on_a_file_that_was_just_removed_is_no_lock(tmp_path: Path):
    """Otherwise the next one makes the file again, and two launchers believe that they are alone."""
    path = tmp_path / "bot-abc.lock"
    first = FileLock.try_acquire(path)
    assert first is not None

    def leave(_frame: FrameType, event: str, called: object) -> None:
        if event == "c_call" and called is fcntl.flock and first.fd >= 0:
            first.remove()

    sys.setprofile(leave)  # nothing is replaced: the interpreter tells when the second one has opened and not yet locked
    try:
        second = FileLock.try_acquire(path)
    finally:
        sys.setprofile(None)
    assert second is not None
    assert FileLock.try_acquire(path) is None
    second.release()
    third = FileLock.try_acquire(path)
    assert third is not None
    third.remove()
    assert not path.exists()
