"""What a path in a recipe means: a local file, an object store, a hub id or something built in. Pure text rules."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_REMOTE = re.compile(r"^(s3|gs)://")
_IN_BUCKET = re.compile(r"^(s3|gs)://[^/]+/.*[^/]$")
_FILE_ENDINGS = frozenset({".jsonl", ".json", ".csv", ".parquet", ".txt"})


def is_remote(path: str) -> bool:
    """Whether ``path`` is an s3:// or gs:// URI."""
    return bool(_REMOTE.match(path))


def is_file_in_bucket(path: str) -> bool:
    """Whether ``path`` is the address of one data file in a bucket, of a kind that the trainer reads."""
    return bool(_IN_BUCKET.match(path)) and PurePosixPath(path).suffix.lower() in _FILE_ENDINGS


def is_local_file(path: str) -> bool:
    """Whether a data path names a file here: it starts with ./ ../ / or ~, or has a known file ending."""
    if is_remote(path):
        return False
    return path.startswith(("./", "../", "/", "~")) or PurePosixPath(path).suffix.lower() in _FILE_ENDINGS


def is_local_model(base: str) -> bool:
    """Whether ``model.base`` is a folder here rather than a hub id, a bucket or something built in."""
    return base.startswith(("./", "../", "/", "~"))


def is_builtin(base: str) -> bool:
    """Whether ``model.base`` is made by cloudtune itself."""
    return base.startswith("builtin:")
