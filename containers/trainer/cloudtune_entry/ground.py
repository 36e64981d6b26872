"""Where the job stands: which platform this is, and which folders it gave us. Reads the environment, makes folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["sagemaker", "vertex", "local"]
DEFAULT_ROOT = "/opt/ml"
WRITTEN = ("model", "output", "output/data", "checkpoints")


class Trouble(Exception):
    """Something that ends the job before training; the text is one sentence for the failure file."""


@dataclass(frozen=True)
class Ground:
    """The platform and the folders. ``root`` is laid out as SageMaker does it, whatever the platform."""

    kind: Kind
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "input" / "data"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def job_file(self) -> Path:
        return self.data / "job" / "job.json"


def find_ground(environ: Mapping[str, str]) -> Ground:
    """SageMaker names its jobs, Vertex AI gives a CLUSTER_SPEC or AIP_ folders; anything else is a local container."""
    root = Path(environ.get("CLOUDTUNE_ROOT") or DEFAULT_ROOT)
    if environ.get("TRAINING_JOB_NAME") or environ.get("SM_TRAINING_ENV") or (root / "input/config/resourceconfig.json").exists():
        return Ground("sagemaker", root)
    if environ.get("CLUSTER_SPEC") or environ.get("AIP_MODEL_DIR") or environ.get("CLOUD_ML_JOB_ID"):
        return Ground("vertex", root)
    return Ground("local", root)


def lay_out(ground: Ground, environ: Mapping[str, str]) -> None:
    """Make the folders that the trainer writes to; on Vertex AI also link the mounted input folders into place."""
    try:
        for name in WRITTEN:
            (ground.root / name).mkdir(parents=True, exist_ok=True)
        (ground.output / "failure").unlink(missing_ok=True)  # of an earlier start
    except OSError as error:
        raise Trouble(f"the job's folder {ground.root} cannot be written: {error.strerror}; mount a writable folder there") from error
    if ground.kind == "vertex" and environ.get("CLOUDTUNE_INPUT"):
        _link_inputs(ground, bucket_path(environ["CLOUDTUNE_INPUT"]))
    if ground.kind == "vertex" and environ.get("CLOUDTUNE_INPUTS"):
        _link_each(ground, environ["CLOUDTUNE_INPUTS"])


def _link_inputs(ground: Ground, source: Path) -> None:
    if not source.is_dir():
        raise Trouble(f"the input folder {source} is not mounted; may the job's service account read the bucket?")
    ground.data.mkdir(parents=True, exist_ok=True)
    for part in sorted(source.iterdir()):
        place = ground.data / part.name
        if not os.path.lexists(place):
            place.symlink_to(part)


def _link_each(ground: Ground, text: str) -> None:
    """Path below the input folder → URI, as JSON: each is kept in the bucket by its content and linked under its name."""
    try:
        places = {str(name): bucket_path(str(uri)) for name, uri in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise Trouble(f"the list of inputs is damaged ({error}): launch the job again") from error
    for name, source in places.items():
        if not source.exists():
            raise Trouble(f"the input {name} is not there as {source}; may the job's service account read the bucket?")
        place = ground.data / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(place):
            place.symlink_to(source)


def bucket_path(uri: str) -> Path:
    """``gs://bucket/folder`` → ``/gcs/bucket/folder``, where Vertex AI mounts every bucket that the job may see.

    ``CLOUDTUNE_BUCKETS`` names another folder than /gcs: a rehearsal in plain processes has no root to mount it at.
    """
    mounted = os.environ.get("CLOUDTUNE_BUCKETS") or "/gcs"
    return Path(mounted) / uri.removeprefix("gs://") if uri.startswith("gs://") else Path(uri)
