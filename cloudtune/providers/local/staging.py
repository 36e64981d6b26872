"""Staging for local jobs: every file is kept once by its content, so the same bundle twice is one copy.

``<home>/staged/<sha256>`` are read-only files; a job links to them, so editing a data set after the launch cannot
change a job that was accepted. A local base model's folder is not copied (it may be larger than the free disk): it
is named by its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import StagingError
from cloudtune.providers.base import Staged
from cloudtune.units import gib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cloudtune.planning.plan import Plan
    from cloudtune.rendering.bundle import Bundle

_CHUNK = 1 << 20


class LocalStager:
    """Puts job files and data under ``<home>/staged``."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "staged"

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        """Raises StagingError when a file cannot be read or written, or is not the one that was planned with."""
        from cloudtune.rendering.jobfile import local_inputs  # here, because ps connects to this place and needs no planner

        expected = _digests(bundle.job["job.json"])
        uris: dict[str, str] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, content in bundle.job.items():
                uris[f"job/{name}"] = self._keep([content]).as_uri()
            for item in local_inputs(plan):
                if item.source.is_dir():
                    uris[item.channel] = item.source.resolve().as_uri()
                    continue
                progress(f"copying {item.source.name} ({gib(item.source.stat().st_size)})")
                kept = self._keep(_chunks(item.source))
                _check(item.source, kept.name, expected.get(item.channel))
                uris[item.channel] = kept.as_uri()
        except OSError as error:
            raise StagingError(
                f"staging failed: {error.strerror}",
                where=str(error.filename or self._folder),
                hint="check the file and the free disk space",
            ) from error
        return Staged(bundle.digest, uris)

    def _keep(self, chunks: Iterable[bytes]) -> Path:
        """The content as a file named by its sha256; written under a temporary name first, so it is whole or absent."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".coming-", delete=False) as file:
            temporary = Path(file.name)
            try:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o444)
                return _settle(temporary, self._folder / digest.hexdigest())
            finally:
                temporary.unlink(missing_ok=True)


def _settle(temporary: Path, kept: Path) -> Path:
    """The file under its lasting name; one that is there already stays, as jobs are linked to it."""
    try:
        os.link(temporary, kept)
    except FileExistsError:
        if kept.stat().st_size != temporary.stat().st_size:
            temporary.replace(kept)
    except OSError:  # a file system without links
        temporary.replace(kept)
    return kept


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _digests(job_json: bytes) -> Mapping[str, str]:
    orders = json.loads(job_json)
    return {channel["path"]: channel["sha256"] for channel in (*orders["train"], *orders["eval"]) if channel.get("sha256")}


def _check(source: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise StagingError("the data changed while it was being staged", where=str(source), hint="run the command again")
