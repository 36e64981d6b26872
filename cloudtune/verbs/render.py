"""The verb ``render``: plan → bundle, with the digests of the user's data. Reads files, builds and sends nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import StagingError, UsageError
from cloudtune.rendering.bundle import Bundle, build_context, make_bundle
from cloudtune.rendering.dockerfile import Target
from cloudtune.rendering.jobfile import local_inputs, template_file
from cloudtune.resources import resource_dir

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan

# Of cloudtune itself the trainer needs the recipe's words and the manifest, and what these import.
_SHARED = ("__init__.py", "errors.py", "units.py", "manifest.py", "recipe")
_CHUNK = 1 << 20


def render(plan: Plan) -> Bundle:
    """The bundle of a plan: equal plans and equal data give equal bytes on any machine.

    Raises StagingError when a data file or template cannot be read.
    """
    target: Target = "cuda" if plan.layout.gpus else "cpu"
    containers = resource_dir("containers")
    context = build_context(
        target,
        plan.cloudtune_version,
        trainer_sources(containers),
        (containers / "requirements" / f"{target}.txt").read_bytes(),
    )
    template = template_file(plan)
    return make_bundle(plan, context, data_digests(plan), _read(template) if template else None)


def trainer_sources(containers: Path) -> dict[str, bytes]:
    """The trainer package and the part of cloudtune that it imports, by path relative to the image's code folder."""
    trainer = containers / "trainer"
    files = {path.relative_to(trainer).as_posix(): path.read_bytes() for path in _python_files(trainer / "cloudtune_trainer")}
    package = Path(__file__).resolve().parent.parent
    for name in _SHARED:
        part = package / name
        for path in _python_files(part) if part.is_dir() else [part]:
            files[f"cloudtune/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    return files


def _python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def data_digests(plan: Plan) -> dict[str, str]:
    """sha256 of every local data file, by its path inside the job; folders (a local base model) are left out."""
    return {item.channel: _sha256(item.source) for item in local_inputs(plan) if not item.source.is_dir()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise StagingError(
            f"the data file cannot be read: {error.strerror}", where=str(path), hint="run: cloudtune validate on the recipe"
        ) from error
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StagingError(
            f"the chat template cannot be read: {error.strerror}", where=str(path), hint="check data.chat_template"
        ) from error


def write_bundle(bundle: Bundle, folder: Path) -> list[Path]:
    """Write a bundle as a folder that can be read, diffed and built by hand: ``image/`` and ``job/``.

    Raises UsageError when the folder holds anything that is not from an earlier render.
    """
    marker = folder / ".cloudtune-bundle"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(f"{folder} is not empty", hint="choose another folder with -o")
    stale = {path for part in ("image", "job") for path in (folder / part).rglob("*") if path.is_file()}
    written = []
    for part, files in (("image", bundle.image), ("job", bundle.job)):
        for name, content in files.items():
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
    for path in stale.difference(written):
        path.unlink()
    marker.write_text(f"{bundle.digest}\n")
    return written
