"""Secrets from the notebook's own store (the key in Colab's side bar), else from the environment. Values are never shown.

They go to the supervisor as files that only this user may read, outside everything that is kept, and are removed with the job.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloudtune_colab.ground import say


@contextmanager
def opened(names: Sequence[str], *, colab: bool) -> Iterator[Path]:
    """A folder with one file per secret that was found, until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="cloudtune-secrets-"))
    try:
        for name in sorted(names):
            value = (_from_colab(name) if colab else None) or os.environ.get(name)
            if value:
                place = folder / name
                place.touch(mode=0o600)
                place.write_text(value)
            say(f"secret {name}: {'found' if value else 'not found; add it with the key in the side bar and let this notebook use it'}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_colab(name: str) -> str | None:
    userdata = importlib.import_module("google.colab.userdata")
    known = (userdata.SecretNotFoundError, userdata.NotebookAccessError, getattr(userdata, "TimeoutException", TimeoutError))
    try:
        return str(userdata.get(name))
    except known:
        return None
