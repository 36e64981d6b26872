"""Data in S3 for a job on Google's cloud: fetched to this machine's disk, then uploaded like any file, once for each version of it.

    <home>/gcp/copies/VERSION.part              what has arrived; an interrupted fetch goes on from there
    gs://BUCKET/cloudtune/copies/VERSION        the address under cloudtune/files/ that this version was given
    VERSION                                     digest of address, size and time of writing in S3

AWS bills what leaves S3; the plan says so before anybody agrees (planning/buckets.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cloudtune.errors import StagingError, StoreError, UsageError
from cloudtune.filelock import held
from cloudtune.providers.gcp.request import PREFIX, GcpSettings
from cloudtune.units import gib
from cloudtune.wire.aws import Login as AwsLogin
from cloudtune.wire.s3 import Bucket as S3Bucket
from cloudtune.wire.s3 import Head, split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cloudtune.clock import Clock
    from cloudtune.wire.gcs import Bucket
    from cloudtune.wire.gcs_upload import Fingerprint

COPIES: Final = f"{PREFIX}/copies"
_WAIT_SECONDS: Final = 2.0
_SAY_EVERY: Final = 64 << 20
_BY_HAND: Final = "or copy it yourself and name that: gcloud storage cp {uri} gs://YOUR-BUCKET/"


@dataclass(frozen=True, slots=True)
class Original:
    """One object in S3 as it is now."""

    uri: str
    bucket: S3Bucket
    head: Head

    @property
    def version(self) -> str:
        """Another one for every change of the object."""
        said = f"{self.uri}\0{self.head.bytes}\0{self.head.written.isoformat()}"
        return hashlib.sha256(said.encode()).hexdigest()


class S3Settings(Protocol):
    """Whose login S3 is asked with."""

    @property
    def aws_profile(self) -> str | None: ...
    @property
    def aws_region(self) -> str | None: ...


class InputSettings(GcpSettings, S3Settings, Protocol):
    """The settings of a job on Vertex AI that may read data in S3."""


def look_at(uri: str, settings: S3Settings) -> Original:
    """The object that ``uri`` names. Raises StagingError when there is none, UsageError without boto3, AuthError and StoreError of S3."""
    if importlib.util.find_spec("boto3") is None:
        raise UsageError(f"copying {uri} needs the Python package boto3", code="extra-missing", hint="run: pip install 'cloudtune[aws]'")
    name, key = split(uri)
    bucket = S3Bucket(AwsLogin(settings.aws_profile, settings.aws_region), name)
    head = bucket.head(key) if key and not key.endswith("/") else None
    if head is None:
        raise StagingError("there is no such file in S3", where=uri, code="no-data", hint=f"look with: aws s3 ls {uri}")
    return Original(uri, bucket, head)


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies into ``bucket`` by way of ``folder`` on this machine, whose disk keeps ``spare_bytes``.

    ``upload``: sends a file and gives its address in the bucket.
    """

    bucket: Bucket
    folder: Path
    clock: Clock
    upload: Callable[[Path, Callable[[str], None]], tuple[str, Fingerprint]]
    spare_bytes: int = 1 << 30

    def bring(self, original: Original, say: Callable[[str], None]) -> str:
        """The address of the copy, made unless this version was copied before.

        Raises StagingError for a disk that is too small and for an object that changes meanwhile, AuthError and StoreError of either store.
        """
        note = f"{COPIES}/{original.version}"
        known = self._known(note)
        if known:
            say(f"{original.uri} was copied before")
            return known
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.folder / f"{original.version}.part"
        with held(part.with_suffix(".lock"), self.clock, _WAIT_SECONDS) as lock:
            if lock is None:
                raise StagingError("another launch is copying it", where=original.uri, hint="run the command again when that one is done")
            self._fetch(original, part, say)
            uri, print_ = self.upload(part, say)
            if original.head.sha256 not in ("", print_.sha256):
                part.unlink()
                raise StagingError("the copy has not the digest that S3 has noted", where=original.uri, hint="run the command again")
            part.unlink()
        self.bucket.write(note, uri.encode())
        return uri

    def _known(self, note: str) -> str:
        """The address that an earlier copy was given, if its file is still there."""
        try:
            said = self.bucket.read(note)[0].decode()
        except StoreError as error:
            if error.code == "store-missing":
                return ""
            raise
        there = self.bucket.head(said.removeprefix(self.bucket.where("")))
        return said if there is not None else ""

    def _fetch(self, original: Original, part: Path, say: Callable[[str], None]) -> None:
        """Everything of the object into ``part``, which may have its beginning already."""
        have, size = part.stat().st_size if part.exists() else 0, original.head.bytes
        free = shutil.disk_usage(self.folder).free - self.spare_bytes
        if free < size - have:
            raise StagingError(
                f"copying needs {gib(size - have)} on this disk, which has {gib(max(0, free))} to spare",
                where=str(self.folder),
                hint=f"set CLOUDTUNE_HOME to a larger disk, {_BY_HAND.format(uri=original.uri)}",
            )
        said = have
        with part.open("ab") as file:
            for piece in original.bucket.fetch(original.head.key, have) if have < size else ():
                file.write(piece)
                have += len(piece)
                if have - said >= _SAY_EVERY or have == size:
                    said = have
                    say(f"copying {original.uri}: {gib(have)} of {gib(size)}")
        original.bucket.close()
        now = original.bucket.head(original.head.key)
        if have != size or now is None or (now.bytes, now.written) != (size, original.head.written):
            part.unlink()
            raise StagingError("it changed in S3 while it was copied", where=original.uri, hint="run the command again")
