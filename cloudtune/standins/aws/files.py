"""Files between S3 and a machine's folders: channels in, checkpoints both ways, results out. Asks no question of a job's state."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/a/b`` → (``bucket``, ``a/b``)."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def listed(s3: Any, uri: str) -> Iterator[tuple[str, int]]:
    """(key, size) of every object below a URI, in order."""
    bucket, prefix = split_uri(uri)
    token: dict[str, str] = {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, **token)
        yield from ((str(item["Key"]), int(item["Size"])) for item in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def fetch_prefix(s3: Any, uri: str, folder: Path, *, part: int = 0, of: int = 1) -> int:
    """Every object below ``uri`` into ``folder`` (each ``of``-th from ``part`` on); returns how many.

    A prefix without a slash at its end is a beginning of names, as the service reads it.
    """
    bucket, prefix = split_uri(uri)
    base = prefix[: prefix.rfind("/") + 1]
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    for index, (key, _) in enumerate(listed(s3, uri)):
        if index % of != part or key.endswith("/"):
            continue
        place = folder / key[len(base) :]
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as stream:
            shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=key)["Body"], stream, 1 << 20)
        count += 1
    return count


def put_file(s3: Any, path: Path, bucket: str, key: str) -> None:
    """Upload one file as it is now: a copy, because a digest is sent before the body and the job may write on in between."""
    with tempfile.TemporaryFile() as copy:
        with path.open("rb") as stream:
            shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        s3.put_object(Bucket=bucket, Key=key, Body=copy)


def upload_results(s3: Any, folders: list[Path], uri: str, *, raw: bool, archive: str) -> str:
    """Results of all machines: raw files below ``uri`` + archive name, or one ``archive``.tar.gz. Returns what was written, as a URI."""
    bucket, prefix = split_uri(uri)
    files = {path.relative_to(folder).as_posix(): path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}
    if raw:
        for name, path in files.items():
            put_file(s3, path, bucket, f"{prefix}{archive}/{name}")
        return f"s3://{bucket}/{prefix}{archive}/"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, path in files.items():
            tar.add(path, name)
    s3.put_object(Bucket=bucket, Key=f"{prefix}{archive}.tar.gz", Body=packed.getvalue())
    return f"s3://{bucket}/{prefix}{archive}.tar.gz"


@dataclass
class Sync:
    """One machine's checkpoint folder and its prefix: what changes here is uploaded, what vanishes here vanishes there.

    What appears in the bucket after the start is not fetched, as in the service.
    """

    s3: Any
    folder: Path
    uri: str
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def restore(self) -> int:
        """Bring everything below the prefix here; returns the number of files."""
        count = fetch_prefix(self.s3, _with_slash(self.uri), self.folder)
        self._known = dict(self._facts())
        return count

    def push(self) -> None:
        """Bring the prefix to what the folder is now."""
        bucket, prefix = split_uri(_with_slash(self.uri))
        now = dict(self._facts())
        for name, facts in now.items():
            if self._known.get(name) != facts:
                with suppress(FileNotFoundError):  # deleted while we looked
                    put_file(self.s3, self.folder / name, bucket, prefix + name)
                    self._known[name] = facts
        for name in [known for known in self._known if known not in now]:
            self.s3.delete_object(Bucket=bucket, Key=prefix + name)
            del self._known[name]

    def _facts(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for parent, _, names in os.walk(self.folder):
            for name in sorted(names):
                path = Path(parent) / name
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    yield path.relative_to(self.folder).as_posix(), (facts.st_size, facts.st_mtime_ns)


def _with_slash(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"
