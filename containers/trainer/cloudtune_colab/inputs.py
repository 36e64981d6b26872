"""The job's files in their places: ``job.json`` and data from the notebook itself, larger data from Drive, a bucket or an upload.

Every data file is compared with the digest that the job was planned with, so that no other file of the same name is trained on.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import importlib
import io
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudtune_colab.ground import Place, Stop, say, sign_in

CHUNK = 1 << 20


def unpacked(text: str) -> bytes:
    """What the notebook carries: bzip2 in base64."""
    return bz2.decompress(base64.b64decode(text))


def put_code(place: Place, wheel: bytes) -> None:
    """The trainer's sources from the wheel; those of an earlier notebook go."""
    shutil.rmtree(place.code, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        archive.extractall(place.code)


def put_files(data: Path, files: Mapping[str, bytes]) -> None:
    """Small files into the job's input folder."""
    for name, content in files.items():
        target = data / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def bring(place: Place, data: Path, wanted: Mapping[str, Mapping[str, Any]], source: str) -> None:
    """Bring every file or folder of ``wanted`` (channel → name, sha256, and ``from``: its address in a bucket) that is not here yet.

    ``source``: a folder, ``drive``'s for instance, or gs://bucket/folder; empty takes what is in Cloud Storage from where it
    is, and asks for an upload of all else on Colab. Raises Stop.
    """
    for channel, facts in wanted.items():
        target = data / channel
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(place, str(facts["name"]), target, source.strip(), str(facts.get("from") or ""))
        check(target, str(facts["name"]), facts.get("sha256"))
        say(f"data {facts['name']}: here")


def _fetch(place: Place, name: str, target: Path, source: str, address: str) -> None:
    fresh = target.with_name(f"{target.name}.part")
    if source.startswith("gs://"):
        _download(place, f"{source.rstrip('/')}/{name}", fresh)
    elif not source and address.startswith("gs://"):
        _download(place, address, fresh)
    elif source:
        found = Path(source).expanduser() / name
        if not found.exists():
            raise Stop(f"there is no {name} in {source}: put the file there, or name another folder in DATA")
        if found.is_dir():
            shutil.copytree(found, fresh, dirs_exist_ok=True)
        else:
            shutil.copyfile(found, fresh)
    elif place.colab:
        _upload(name, fresh)
    else:
        raise Stop(f"the file {name} is not in this notebook: name its folder or gs://bucket/folder in DATA in the first cell")
    fresh.replace(target)


def _download(place: Place, uri: str, fresh: Path) -> None:
    """A file of Cloud Storage, or the files of a folder."""
    sign_in(place)
    client = importlib.import_module("google.cloud.storage").Client()
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    listed = [blob for blob in client.list_blobs(bucket, prefix=f"{path}/") if not blob.name.endswith("/")]
    inside = [blob for blob in listed if ".." not in blob.name.split("/")]
    for blob in inside:
        part = fresh / blob.name.removeprefix(f"{path}/")
        part.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(part))
    if not inside:
        client.bucket(bucket).blob(path).download_to_filename(str(fresh))


def _upload(name: str, fresh: Path) -> None:
    say(f"choose the file {name}")
    given = importlib.import_module("google.colab.files").upload()
    if len(given) != 1:
        raise Stop(f"one file was asked for, {name}; run this cell again")
    fresh.write_bytes(next(iter(given.values())))


def check(path: Path, name: str, sha256: str | None) -> None:
    """Raise Stop when the file is not the planned one; a wrong one is removed, so that the cell can be run again."""
    if sha256 is None or path.is_dir():
        return
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        path.unlink()
        raise Stop(f"{name} is not the file that the job was planned with (its digest differs): bring that one, or render again")
