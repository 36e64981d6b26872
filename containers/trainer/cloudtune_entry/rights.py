"""Whose rights the trainer gets: an unprivileged user where the mounts allow it, else those the platform gave us."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cloudtune_entry.ground import WRITTEN, Ground

USER = 1000
KEEP_VARIABLE = "CLOUDTUNE_KEEP_USER"


@dataclass(frozen=True)
class Rights:
    """``user`` is None when the trainer runs with the supervisor's own rights; ``sentence`` says why."""

    user: int | None
    sentence: str


def decide(ground: Ground, keep: bool) -> Rights:
    """Hand the written folders to ``USER`` and try out, as that user, everything the trainer does with them."""
    own = os.geteuid()
    if own != 0:
        return Rights(None, f"the trainer runs as user {own}, as this container was started")
    if keep:
        return Rights(None, "the trainer keeps the rights of this container's root, as asked (root of a rootless engine is you)")
    folders = [ground.root / name for name in WRITTEN]
    refused = _give(folders)
    if refused:
        return Rights(None, f"the trainer runs as root: {refused}")
    cache = os.environ.get("CLOUDTUNE_CACHE")  # somebody's own folder: tried, never given away
    refused = _try_as(USER, [*folders, *([Path(cache)] if cache else [])], ground.data)
    if refused:
        return Rights(None, f"the trainer runs as root: {refused}")
    return Rights(USER, f"the trainer runs as user {USER}")


def _give(folders: Iterable[Path]) -> str:
    """Change the owner of the folders and of what root left in them; an empty text, or why it cannot be done."""
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            try:
                facts = path.lstat()
                if facts.st_uid != USER and not stat.S_ISLNK(facts.st_mode):
                    os.chown(path, USER, USER)
            except OSError as error:
                return f"{path} cannot be given to user {USER} ({error.strerror})"
    return ""


def _try_as(user: int, folders: list[Path], data: Path) -> str:
    """Fork, become ``user``, read the data and write in every folder; an empty text, or the first thing that failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, _trial(user, folders, data).encode()[:500])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read().decode()
    os.waitpid(child, 0)
    return answer


def _trial(user: int, folders: list[Path], data: Path) -> str:
    place = data
    try:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        for place in _inputs(data):
            with place.open("rb") as stream:
                stream.read(1)
        for folder in folders:
            place = folder / ".cloudtune-write-test"
            place.write_bytes(b"1")
            place.unlink()
    except OSError as error:
        return f"user {user} may not use {place} ({error.strerror})"
    return ""


def _inputs(data: Path) -> list[Path]:
    return [path for path in sorted(data.rglob("*")) if path.is_file()] if os.access(data, os.X_OK) else [data]
