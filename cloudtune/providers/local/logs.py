"""The log of a local job by byte offset: whole lines only while it runs, everything when it has ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cloudtune.errors import ProviderError, UsageError
from cloudtune.job import JobRef, parse_launch_id
from cloudtune.providers.base import LogLine, LogPage
from cloudtune.providers.local.folder import job_folder, look

if TYPE_CHECKING:
    from pathlib import Path

_PAGE = 1 << 18


class LocalLogs:
    """A LogSource over ``log.txt``; its cursor is the number of bytes read so far, as text."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def read(self, ref: JobRef, cursor: str | None) -> LogPage:
        """The lines after ``cursor``. Raises UsageError for a cursor that is not ours, ProviderError when the log cannot be read."""
        folder = job_folder(self._home, parse_launch_id(ref.name))
        if cursor is not None and not cursor.isdecimal():
            raise UsageError(f"{cursor!r} is not a log cursor", hint="take the one that an earlier page gave")
        sight = look(folder)  # before the read: what was written before the end is then in the file
        over = not sight.known or sight.fenced or (sight.started is not None and (sight.exit is not None or not sight.alive))
        try:
            start, chunk, size = _read(folder.log, int(cursor or 0))
        except OSError as error:
            raise ProviderError(f"the log cannot be read: {error.strerror}", where=str(folder.log), hint="check its permissions") from error
        at_end = start + len(chunk) >= size
        cut = len(chunk) if over and at_end else _whole(chunk)
        lines = tuple(LogLine(_shown(line)) for line in chunk[:cut].removesuffix(b"\n").split(b"\n")) if cut else ()
        return LogPage(lines, str(start + cut), done=over and at_end)


def _read(path: Path, offset: int) -> tuple[int, bytes, int]:
    """(offset read from, bytes, size of the file). A file shorter than the offset was cut and is read from its beginning."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = offset if offset <= size else 0
            file.seek(start)
            return start, file.read(_PAGE), size
    except FileNotFoundError:
        return 0, b"", 0


def _whole(chunk: bytes) -> int:
    """Length up to the last line end; the whole chunk when one endless line fills a page."""
    return chunk.rfind(b"\n") + 1 or (len(chunk) if len(chunk) == _PAGE else 0)


def _shown(line: bytes) -> str:
    """What a terminal would show of it: a progress bar overwrites itself after each carriage return."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
