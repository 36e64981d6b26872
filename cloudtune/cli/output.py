"""Where a command's words go: results to stdout, chatter to stderr, JSON as one object. Shows values, makes none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cloudtune.errors import CloudtuneError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def print_out(text: str) -> None:
    """Text to stdout, at once. A reader that went away is the caller's business (BrokenPipeError), a full disk is an error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python flushes once more at its end; what could not be written must not fail a second time there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CloudtuneError(f"standard output cannot be written: {error.strerror}", code="output") from error


def result(lines: Iterable[str]) -> None:
    """A command's answer for people, on stdout."""
    print_out("".join(f"{line}\n" for line in lines))


def json_result(value: Any) -> None:
    """A command's answer for programs: the one JSON object on stdout."""
    from cloudtune.show.json import to_text

    print_out(to_text(value))


def chatter(text: str) -> None:
    """What happens meanwhile, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn(problems: Iterable[CloudtuneError]) -> None:
    """Problems that did not stop the command, on stderr."""
    for problem in problems:
        from cloudtune.show.errors import error_lines
        from cloudtune.show.text import stderr_page

        chatter("\n".join(error_lines(problem, stderr_page())))


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named. Raises UsageError when it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The same for what is no text."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"the file cannot be written: {error.strerror}", where=str(path), hint="choose another file with -o") from error
