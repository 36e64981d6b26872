"""Which paths of a manifest may be written below a folder on any machine. Pure.

A manifest comes from a program that ran elsewhere, so its paths are treated as an attacker's: each must stay inside
the folder, mean the same on every file system, and collide with no other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from cloudtune.errors import StoreError

_LONGEST_PATH = 1024
_LONGEST_NAME = 255
_DRIVE = re.compile(r"^[A-Za-z]:")
_DEVICES = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.IGNORECASE)
_RESERVED_FIRST = frozenset({".incoming", "manifest.json"})


def check_paths(paths: Iterable[str]) -> None:
    """Raise StoreError for the first path that may not be written, or that another one would overwrite somewhere."""
    spelling: dict[str, str] = {}
    files: set[str] = set()
    for path in paths:
        fault = path_fault(path)
        if fault:
            raise StoreError(f"{path!r} {fault}", code="store-bad-path", hint=_HINT)
        folded = _folded(path)
        if folded in files:
            raise StoreError(f"{path!r} has the name of another file", code="store-collision", hint=_HINT)
        files.add(folded)
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            written = "/".join(parts[:depth])
            if spelling.setdefault(_folded(written), written) != written:
                raise StoreError(f"{path!r} differs from another path only by case or accents", code="store-collision", hint=_HINT)
    for folded in files:
        above = folded.rpartition("/")[0]
        while above:
            if above in files:
                raise StoreError(f"{spelling[above]!r} is both a file and a folder", code="store-collision", hint=_HINT)
            above = above.rpartition("/")[0]


_HINT = "nothing was written; the job's manifest is damaged or hostile"


def path_fault(path: str) -> str:
    """Why ``path`` may not be written below a folder, or an empty string."""
    if not path or len(path.encode(errors="surrogatepass")) > _LONGEST_PATH:
        return "is empty or too long for a path"
    if path.startswith("/") or _DRIVE.match(path):
        return "is an absolute path"
    if "\\" in path:
        return "has a backslash"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in path):
        return "has an invisible character"
    parts = path.split("/")
    if parts[0].casefold() in _RESERVED_FIRST:
        return "is a name that cloudtune keeps for itself"
    return next((fault for part in parts if (fault := _name_fault(part))), "")


def _name_fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "climbs out of its folder or has an empty part"
    if len(name.encode()) > _LONGEST_NAME:
        return "has a name that is too long"
    if name[-1] in ". " or any(letter in '<>:"|?*' for letter in name):
        return "has a character that some file systems refuse"
    return "is the name of a device on some systems" if _DEVICES.match(name) else ""


def _folded(path: str) -> str:
    """Paths that some file system takes for the same have the same folded form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
