"""The verb ``render``: plan → bundle, with the digests of the user's data. Reads files, builds and sends nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import StagingError, UsageError
from cloudtune.rendering.bundle import Bundle, build_context, make_bundle
from cloudtune.rendering.dockerfile import Target
from cloudtune.rendering.image import image_name, target_of
from cloudtune.rendering.instructions import instructions
from cloudtune.rendering.jobfile import local_inputs, template_file
from cloudtune.resources import resource_dir

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan

# Of cloudtune itself the trainer needs the recipe's words and the manifest, and what these import.
_SHARED = ("__init__.py", "errors.py", "units.py", "manifest.py", "recipe")
_SOURCE_ENDINGS = frozenset({".py", ".json", ".jinja", ".txt"})
_CHUNK = 1 << 20


def render(plan: Plan) -> Bundle:
    """The bundle of a plan: equal plans and equal data give equal bytes on any machine.

    Raises StagingError when a data file or template cannot be read.
    """
    template = template_file(plan)
    return make_bundle(
        plan, image_context(target_of(plan), plan.cloudtune_version), data_digests(plan), _read(template) if template else None
    )


def image_context(target: Target, version: str) -> dict[str, bytes]:
    """The build context of a release's image: the same for every recipe, on any machine."""
    containers = resource_dir("containers")
    lock = containers / "requirements" / f"{target}.txt"
    return build_context(target, version, trainer_sources(containers), _unix(lock.read_bytes()))


def trainer_sources(containers: Path) -> dict[str, bytes]:
    """The trainer's packages and the part of cloudtune that they import, by path relative to the image's code folder."""
    trainer = containers / "trainer"
    files = {path.relative_to(trainer).as_posix(): path for path in _sources(trainer)}
    package = Path(__file__).resolve().parent.parent
    for name in _SHARED:
        part = package / name
        files.update({f"cloudtune/{path.relative_to(package).as_posix()}": path for path in (_sources(part) if part.is_dir() else [part])})
    return {name: _unix(path.read_bytes()) for name, path in files.items()}


def _sources(folder: Path) -> list[Path]:
    """Source files only: what an editor, an interpreter or a type checker leaves beside them is not part of a release."""
    return sorted(path for path in folder.rglob("*") if path.suffix in _SOURCE_ENDINGS and not path.name.startswith("."))


def _unix(content: bytes) -> bytes:
    """The same bytes whatever line ends a checkout was made with."""
    return content.replace(b"\r\n", b"\n")


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


def write_bundle(bundle: Bundle, folder: Path, plan: Plan | None = None) -> list[Path]:
    """Write a bundle as a folder that can be read, diffed and built by hand: ``image/``, ``job/`` and a README with the commands.

    With ``plan`` the README also names the data that the job needs. Raises UsageError when the folder holds anything
    that is not from an earlier render.
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
    readme = folder / "README.md"
    name = image_name(bundle.image, "cuda" if _wants_gpu(bundle) else "cpu")
    readme.write_text(instructions(bundle, name, local_inputs(plan) if plan else ()))
    written.append(readme)
    marker.write_text(f"{bundle.digest}\n")
    return written


def _wants_gpu(bundle: Bundle) -> bool:
    return bool(json.loads(bundle.job["job.json"])["device"] == "cuda")
