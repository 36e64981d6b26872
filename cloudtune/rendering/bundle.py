"""The bundle: everything a job is built from, as bytes in memory, named by the digest of its content. No effects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cloudtune.planning.plan import Plan
from cloudtune.rendering.dockerfile import Target, dockerfile
from cloudtune.rendering.jobfile import TEMPLATE_NAME, job_file


def content_digest(files: Mapping[str, bytes]) -> str:
    """sha256 over sorted relative paths and contents: the same files give the same digest on any machine."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """``image`` = build context (Dockerfile, locks, trainer): one per release and target. ``job`` = job.json and templates: data.

    Paths are relative with forward slashes. ``digest`` covers both, ``image_digest`` the build context alone.
    """

    image: Mapping[str, bytes]
    job: Mapping[str, bytes]

    @property
    def image_digest(self) -> str:
        return content_digest(self.image)

    @property
    def digest(self) -> str:
        return content_digest({**{f"image/{k}": v for k, v in self.image.items()}, **{f"job/{k}": v for k, v in self.job.items()}})


def build_context(target: Target, version: str, trainer: Mapping[str, bytes], requirements: bytes) -> dict[str, bytes]:
    """The image's files: Dockerfile, locked requirements, and the trainer's sources under ``trainer/``."""
    files = {f"trainer/{path}": content for path, content in trainer.items()}
    files["Dockerfile"] = dockerfile(target, version).encode()
    files["requirements.txt"] = requirements
    return files


def make_bundle(plan: Plan, context: Mapping[str, bytes], digests: Mapping[str, str], template: bytes | None) -> Bundle:
    """Plan, build context and the digests of the local data → Bundle. ``template``: content of the chat template file."""
    orders = job_file(plan, digests).model_dump_json(indent=2, exclude_none=False)
    job = {"job.json": f"{orders}\n".encode()}
    if template is not None:
        job[TEMPLATE_NAME] = template
    return Bundle(image=dict(context), job=job)
