"""One large file into a bucket, in chunks, going on after a crash where the last one broke off. Checked by crc32c at the end.

The address of a begun upload is kept in a file of this machine; Cloud Storage keeps what has arrived for a week.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import StoreError, UnavailableError
from cloudtune.wire.gcs import Bucket, asking, base_url
from cloudtune.wire.google import TIMEOUT, patiently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES: Final = 16 << 20  # a multiple of 256 KiB, as the service wants it
_PIECE: Final = 1 << 20
_RANGE = re.compile(r"bytes=0-(\d+)")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file's size, its sha256 in hex and its crc32c as Cloud Storage writes it."""

    bytes: int
    sha256: str
    crc32c: str


def fingerprint(path: Path) -> Fingerprint:
    """One pass over the file. Raises OSError."""
    import google_crc32c

    digest, size = hashlib.sha256(), 0
    crc: Any = google_crc32c.Checksum()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            crc.update(piece)
            size += len(piece)
    return Fingerprint(size, digest.hexdigest(), base64.b64encode(crc.digest()).decode())


@dataclass(frozen=True)
class Uploads:
    """Uploads into ``bucket``; ``notes`` is the folder of begun ones."""

    bucket: Bucket
    notes: Path
    sleep: Callable[[float], None]

    def send(self, path: Path, name: str, print_: Fingerprint, progress: Callable[[int], None] = lambda _: None) -> bool:
        """Bring the file there as ``name``; False when it was there already. ``progress`` hears how many bytes have arrived.

        Raises StoreError when the file changed on its way, and what Bucket raises. A file that is named by its content is
        written only where there is none.
        """
        there = self.bucket.head(name)
        if there is not None and (there.bytes, there.crc32c) == (print_.bytes, print_.crc32c):
            return False
        generation = there.generation if there is not None else 0
        note = self.notes / f"{hashlib.sha256(self.bucket.where(name).encode()).hexdigest()[:32]}.json"
        session, offset = self._begun(note, print_)
        try:
            if not session:
                session, offset = self._begin(name, print_, generation), 0
                self._write_note(note, session, print_)
            self._send_all(path, session, offset, print_, progress)
        except StoreError as error:
            note.unlink(missing_ok=True)
            if error.code == "store-precondition" and self._is_there(name, print_):
                return False
            raise
        note.unlink(missing_ok=True)
        return True

    def _is_there(self, name: str, print_: Fingerprint) -> bool:
        there = self.bucket.head(name)
        return there is not None and there.crc32c == print_.crc32c

    def _begun(self, note: Path, print_: Fingerprint) -> tuple[str, int]:
        """(address, bytes that have arrived) of an earlier try of the same file; an empty address without one."""
        with suppress(OSError, ValueError, KeyError, TypeError, StoreError):
            kept = json.loads(note.read_text())
            if kept["sha256"] == print_.sha256:
                return str(kept["session"]), self._arrived(str(kept["session"]), print_.bytes)
        return "", 0

    def _write_note(self, note: Path, session: str, print_: Fingerprint) -> None:
        with suppress(OSError):  # without it a crash costs the upload's beginning, nothing else
            note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            note.touch(mode=0o600)  # whoever has the address may write the object
            note.write_text(json.dumps({"session": session, "sha256": print_.sha256}))

    def _begin(self, name: str, print_: Fingerprint, generation: int) -> str:
        url = f"{base_url()}/upload/storage/v1/b/{self.bucket.name}/o"
        query = {"uploadType": "resumable", "name": name, "ifGenerationMatch": str(generation)}
        body = {"crc32c": print_.crc32c, "metadata": {"sha256": print_.sha256}, "contentType": "application/octet-stream"}
        headers = {"X-Upload-Content-Length": str(print_.bytes), "X-Upload-Content-Type": "application/octet-stream"}
        answer = self._call("POST", url, params=query, json=body, headers=headers)
        return str(answer.headers["Location"])

    def _arrived(self, session: str, size: int) -> int:
        """How many bytes of an upload the service has. Raises StoreError when it does not know the upload any more."""
        answer = self._call("PUT", session, headers={"Content-Range": f"bytes */{size}"})
        return size if answer.status_code in (200, 201) else _next_byte(answer)

    def _send_all(self, path: Path, session: str, offset: int, print_: Fingerprint, progress: Callable[[int], None]) -> None:
        with path.open("rb") as file:
            while offset < print_.bytes or print_.bytes == 0:
                offset = self._send_chunk(file, session, offset, print_.bytes)
                progress(offset)
                if print_.bytes == 0:
                    return

    def _send_chunk(self, file: Any, session: str, offset: int, size: int) -> int:
        """Send the next chunk; the offset to go on from. After a broken answer the service says what has arrived."""
        file.seek(offset)
        data = file.read(CHUNK_BYTES)
        if len(data) != min(CHUNK_BYTES, size - offset):
            raise StoreError("the file became shorter while it was uploaded", where=str(getattr(file, "name", "")), code="store-changed")
        span = f"bytes {offset}-{offset + len(data) - 1}/{size}" if data else f"bytes */{size}"
        try:
            answer = self._once("PUT", session, data=data, headers={"Content-Range": span})
        except UnavailableError:
            return self._arrived(session, size)
        return size if answer.status_code in (200, 201) else _next_byte(answer)

    def _call(self, method: str, url: str, **more: Any) -> Any:
        return patiently(lambda: self._once(method, url, **more), self.sleep)

    def _once(self, method: str, url: str, **more: Any) -> Any:
        import google.api_core.exceptions

        with asking(self.bucket.login, self.bucket.where("")):
            answer = self.bucket.login.session.request(method, url, timeout=TIMEOUT, allow_redirects=False, **more)
            if answer.status_code not in (200, 201, 308):
                raise google.api_core.exceptions.from_http_response(answer)
            return answer


def _next_byte(answer: Any) -> int:
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0
