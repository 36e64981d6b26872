"""Stands for ``pip install`` on a stand-in machine, which must not touch the Python that it runs in. A program of its own.

    python packages.py FOLDER install [options] -r requirements.txt | WHEEL ...

Wheels are unpacked into FOLDER, which lies first on the job's PYTHONPATH. Requirements are what this Python has: each
that is missing or of another version is said in one line, because that is what a rehearsal leaves unproved. Standard
library only: it also runs inside containers.
"""

from __future__ import annotations

import re
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:==\s*(?P<version>[^\s;\\]+))?")
_WITH_VALUE = ("--find-links", "-f", "--index-url", "-i", "--extra-index-url", "--target", "-t")


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns pip's exit code for it."""
    folder, command, rest = Path(arguments[0]), arguments[1], arguments[2:]
    if command != "install":
        sys.stderr.write(f"a stand-in machine's pip knows install only, not {command}\n")
        return 1
    words = iter(rest)
    for word in words:
        if word in ("-r", "--requirement"):
            _say_differences(Path(next(words)))
        elif word in _WITH_VALUE:
            next(words)
        elif word.endswith(".whl"):
            with zipfile.ZipFile(word) as wheel:
                wheel.extractall(folder)
    return 0


def _say_differences(requirements: Path) -> None:
    missing = []
    for line in requirements.read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        try:
            here = version(found["name"])
        except PackageNotFoundError:
            missing.append(found["name"])
            continue
        if found["version"] and here.partition("+")[0] != found["version"].partition("+")[0]:
            sys.stdout.write(f"{found['name']} {found['version']} is asked for, {here} is here\n")
    if missing:
        sys.stdout.write(f"asked for and not here: {', '.join(missing)}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
