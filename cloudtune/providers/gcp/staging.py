"""Staging for Vertex AI: every file lies in the bucket once, under the digest of its content, and the job links to it.

    gs://BUCKET/cloudtune/files/SHA256            job.json, templates, data
    gs://BUCKET/cloudtune/models/DIGEST/...       a model folder of this machine

What is in Cloud Storage already stays where it is; data in S3 is copied (copying.py).
The same bundle twice sends nothing; an upload that broke off goes on where it was. The image comes from images.py.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from cloudtune.errors import StagingError, StoreError
from cloudtune.providers.base import Staged
from cloudtune.providers.gcp.copying import Copies, look_at
from cloudtune.providers.gcp.request import PREFIX, account
from cloudtune.units import MIB, gib
from cloudtune.wire.gcs import Bucket
from cloudtune.wire.gcs_upload import Fingerprint, Uploads, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cloudtune.clock import Clock
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.gcp.copying import InputSettings
    from cloudtune.providers.gcp.images import GcpImages
    from cloudtune.rendering.bundle import Bundle
    from cloudtune.wire.google import Login

FILES: Final = f"{PREFIX}/files"
MODELS: Final = f"{PREFIX}/models"


class GcpStager:
    """Puts data, orders and image of a job where Vertex AI finds them. ``notes``: folder for begun uploads."""

    def __init__(self, settings: InputSettings, clock: Clock, login: Login, notes: Path, images: GcpImages) -> None:
        self._settings = settings
        self._clock = clock
        self._login = login
        self._notes = notes
        self._images = images

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        """Raises StagingError for a file that cannot be read or has changed, StoreError and AuthError for the bucket."""
        from cloudtune.rendering.jobfile import bucket_inputs, local_inputs

        _, name, _ = account(self._settings, plan.chosen.region)
        bucket = Bucket(name, self._login, sleep=self._clock.sleep)
        uploads = Uploads(bucket, self._notes, self._clock.sleep)
        expected = _digests(bundle.job["job.json"])
        try:
            uris = {f"job/{path}": _small(bucket, content) for path, content in bundle.job.items()}
            for item in local_inputs(plan):
                if item.source.is_dir():
                    uris[item.channel] = _folder(uploads, item.source, progress)
                else:
                    uris[item.channel] = _file(uploads, item.source, expected.get(item.channel), progress)
            away = [item for item in bucket_inputs(plan) if item.uri.startswith("s3://")]
            uris |= {item.channel: self._copies(uploads).bring(look_at(item.uri, self._settings), progress) for item in away}
        except OSError as error:
            raise StagingError(
                f"the file cannot be read: {error.strerror}", where=str(error.filename or ""), hint="run: cloudtune validate"
            ) from error
        except StoreError as error:
            if error.code == "store-no-bucket":
                raise _no_bucket(error, name) from error
            raise
        uris["image"] = self._images.make(bundle, plan, progress)
        return Staged(bundle.digest, uris)

    def _copies(self, uploads: Uploads) -> Copies:
        def upload(path: Path, say: Callable[[str], None]) -> tuple[str, Fingerprint]:
            print_ = fingerprint(path)
            name = f"{FILES}/{print_.sha256}"
            _send(uploads, path, name, print_, say)
            return uploads.bucket.where(name), print_

        return Copies(uploads.bucket, self._notes.parent / "copies", self._clock, upload)


def _small(bucket: Bucket, content: bytes) -> str:
    """Keep a small file under its digest; nothing is sent for one that is there."""
    name = f"{FILES}/{hashlib.sha256(content).hexdigest()}"
    try:
        bucket.write(name, content, generation=0)
    except StoreError as error:
        if error.code != "store-precondition":
            raise
    return bucket.where(name)


def _file(uploads: Uploads, path: Path, expected: str | None, progress: Callable[[str], None]) -> str:
    print_ = fingerprint(path)
    if expected is not None and print_.sha256 != expected:
        raise StagingError("the data changed while it was being staged", where=str(path), hint="run the command again")
    name = f"{FILES}/{print_.sha256}"
    _send(uploads, path, name, print_, progress)
    return uploads.bucket.where(name)


def _folder(uploads: Uploads, folder: Path, progress: Callable[[str], None]) -> str:
    """A model folder under the digest of its paths and contents; hidden files stay here."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not files:
        raise StagingError("the folder is empty", where=str(folder), hint="name a folder with the model's files")
    prints = {name: fingerprint(path) for name, path in files.items()}
    total = hashlib.sha256("".join(f"{name}\0{prints[name].sha256}\n" for name in sorted(prints)).encode()).hexdigest()
    for name, path in files.items():
        _send(uploads, path, f"{MODELS}/{total}/{name}", prints[name], progress)
    return uploads.bucket.where(f"{MODELS}/{total}")


def _send(uploads: Uploads, path: Path, name: str, print_: Fingerprint, progress: Callable[[str], None]) -> None:
    size = gib(print_.bytes) if print_.bytes >= MIB else f"{print_.bytes:,} bytes"

    def arrived(count: int) -> None:
        progress(f"uploading {path.name}: {gib(count)} of {size}" if count < print_.bytes else f"uploaded {path.name} ({size})")

    if not uploads.send(path, name, print_, arrived):
        progress(f"{path.name} ({size}) is in the bucket already")


def _digests(job_json: bytes) -> Mapping[str, str]:
    orders = json.loads(job_json)
    return {channel["path"]: channel["sha256"] for channel in (*orders["train"], *orders["eval"]) if channel.get("sha256")}


def _no_bucket(error: StoreError, name: str) -> StagingError:
    return StagingError(
        f"there is no bucket {name}",
        where=error.where,
        code="no-bucket",
        hint=f"make it in the job's region: gcloud storage buckets create gs://{name} --location=REGION --uniform-bucket-level-access",
    )
