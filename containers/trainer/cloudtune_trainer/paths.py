"""Where things lie: the folder contract and the environment. The only file that knows either; creates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudtune.manifest import FAILURE_NAME, MANIFEST_NAME, METRICS_NAME

DEFAULT_ROOT = "/opt/ml"  # SageMaker mounts it; the other places lay out the same folders


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one job. ``cache`` outlives jobs and holds models that were built here."""

    root: Path
    cache: Path
    launch_id: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Paths:
        """``CLOUDTUNE_ROOT``, ``CLOUDTUNE_CACHE`` and ``CLOUDTUNE_LAUNCH_ID``; each may be absent."""
        cache = environ.get("CLOUDTUNE_CACHE")
        home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(
            root=Path(environ.get("CLOUDTUNE_ROOT", DEFAULT_ROOT)).absolute(),
            cache=Path(cache).absolute() if cache else home / "cloudtune",
            launch_id=environ.get("CLOUDTUNE_LAUNCH_ID", "unnamed"),
        )

    @property
    def inputs(self) -> Path:
        return self.root / "input" / "data"

    @property
    def job_folder(self) -> Path:
        """``job.json`` and the chat template beside it."""
        return self.inputs / "job"

    @property
    def job_file(self) -> Path:
        return self.job_folder / "job.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "output" / "data" / METRICS_NAME

    @property
    def failure(self) -> Path:
        return self.root / "output" / FAILURE_NAME

    @property
    def model(self) -> Path:
        """The final artifacts; everything in it that the manifest names is brought home."""
        return self.root / "model"

    @property
    def manifest(self) -> Path:
        return self.model / MANIFEST_NAME
