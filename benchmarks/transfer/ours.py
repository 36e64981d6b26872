"""cloudtune's own transfers as a program, for the benchmark: ``ours.py up|down URI PATH``. Same code as staging and collecting."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cloudtune.stores.destination import Wanted, opened_destination
from cloudtune.stores.s3 import S3Store
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket, split
from cloudtune.wire.upload import Upload, describe_all, upload_all

LIST = "files.json"


def up(uri: str, folder: Path) -> None:
    """Every file of ``folder``, its digests reckoned here as staging does, and a list of them for ``down``."""
    name, prefix = split(uri)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    described = zip(files, describe_all(files), strict=True)
    wanted = [Wanted(path.relative_to(folder).as_posix(), size, sha256) for path, (size, sha256) in described]
    bucket = Bucket(Login(), name)
    uploads = [Upload(f"{prefix}{one.path}", folder / one.path, one.bytes, one.sha256) for one in wanted]
    upload_all(bucket, uploads, prefix, lambda _: None)
    listed = json.dumps([[one.path, one.bytes, one.sha256] for one in wanted]).encode()
    bucket.put(f"lists/{prefix}{LIST}", listed)


def down(uri: str, folder: Path) -> None:
    """What ``up`` listed, each file checked and flushed, as collect does it."""
    from cloudtune.verbs.collect import _receive_all

    name, prefix = split(uri)
    bucket = Bucket(Login(), name)
    listed = json.loads(b"".join(bucket.fetch(f"lists/{prefix}{LIST}")))
    with opened_destination(folder) as destination:
        _receive_all(destination, S3Store(bucket, prefix), [Wanted(*one) for one in listed], lambda _: None)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
