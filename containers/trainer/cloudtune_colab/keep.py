"""Where results outlive the machine: a folder (Google Drive is one), or a bucket that a folder is brought in line with.

The supervisor copies checkpoints, metrics and results into the folder as they appear, completion markers last. A bucket
is fed from that folder every ``EVERY_SECONDS``, again with the markers last, and read back when a fresh machine starts.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cloudtune_colab.ground import Place, Stop, say, sign_in
from cloudtune_entry.mirror import LAST

DRIVE = Path("/content/drive")
EVERY_SECONDS = 60.0
CALL_SECONDS = 120


class Kept(Protocol):
    """``folder`` is where the supervisor copies to; None keeps nothing beyond this machine."""

    @property
    def folder(self) -> Path | None: ...
    def fetch(self) -> None: ...
    def send(self) -> None: ...


class Folder:
    """A folder that stays by itself, or none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def fetch(self) -> None:
        """Nothing to do: the folder is where it was."""

    def send(self) -> None:
        """Nothing to do: what lies in the folder is kept."""


class Bucket:
    """``gs://bucket/prefix`` through google-cloud-storage, which Colab has installed. ``folder`` is the copy on this machine."""

    def __init__(self, uri: str, folder: Path, client: Any = None) -> None:
        name, _, prefix = uri.removeprefix("gs://").partition("/")
        self.folder = folder
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._sent: dict[str, tuple[int, int]] = {}
        self._bucket = (client or importlib.import_module("google.cloud.storage").Client()).bucket(name)

    def fetch(self) -> None:
        """Bring what an earlier machine left: files that are not here yet. Markers last, so that a torn copy is none."""
        found = {blob.name.removeprefix(self._prefix): blob for blob in self._bucket.list_blobs(prefix=self._prefix, timeout=CALL_SECONDS)}
        for name in sorted(found, key=_markers_last):
            place = self.folder / name
            if not place.exists() and not name.endswith("/"):
                place.parent.mkdir(parents=True, exist_ok=True)
                found[name].download_to_filename(str(place), timeout=CALL_SECONDS)
            if place.is_file():
                self._sent[name] = _state(place)

    def send(self) -> None:
        """Send what is new or changed, markers last; what vanished here vanishes there, its marker first."""
        here = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        for name in sorted(self._sent.keys() - here.keys(), key=_markers_last, reverse=True):
            self._bucket.blob(self._prefix + name).delete(timeout=CALL_SECONDS)
            del self._sent[name]
        for name in sorted(here, key=_markers_last):
            state = _state(here[name])
            if self._sent.get(name) != state:
                self._bucket.blob(self._prefix + name).upload_from_filename(str(here[name]), timeout=CALL_SECONDS)
                self._sent[name] = state


def _markers_last(name: str) -> tuple[bool, str]:
    return name.rpartition("/")[2] in LAST, name


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def find_kept(where: str, name: str, place: Place) -> Kept:
    """What ``KEEP`` in the notebook's first cell means: ``drive``, ``gs://bucket/folder``, a folder, or nothing."""
    where = where.strip()
    if not where:
        say("KEEP is empty: checkpoints and results stay on this machine and go with it")
        return Folder(None)
    if where == "drive":
        if not place.colab:
            raise Stop("KEEP is 'drive', and this is not Colab: name a folder or gs://bucket/folder")
        importlib.import_module("google.colab.drive").mount(str(DRIVE))
        folder = DRIVE / "MyDrive" / "cloudtune" / name
    elif where.startswith("gs://"):
        sign_in(place)
        folder = place.home / "kept"
        say(f"checkpoints and results go to {where.rstrip('/')}/{name}")
        return Bucket(f"{where.rstrip('/')}/{name}", folder)
    else:
        folder = Path(where).expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    say(f"checkpoints and results go to {folder}")
    return Folder(folder)


@contextmanager
def sending(kept: Kept) -> Iterator[None]:
    """Send every ``EVERY_SECONDS`` inside the block and once at its end. A refusal is said, and tried again later."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(EVERY_SECONDS):
            _send(kept)

    sender = threading.Thread(target=work, daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
        if not _send(kept):
            say(f"! the newest results are only on this machine, in {kept.folder}; run this cell again to send them")


def _send(kept: Kept) -> bool:
    known: tuple[type[Exception], ...] = (OSError,)
    if isinstance(kept, Bucket):
        known = (OSError, importlib.import_module("google.api_core.exceptions").GoogleAPIError)
    try:
        kept.send()
    except known as error:
        say(f"! sending to the bucket failed ({type(error).__name__}: {error}); trying again later")
        return False
    return True
