"""Which image a job runs in, and its name. Pure: says what to do; engines, registries and clouds carry it out.

    stock     the platform's own image, our code as a data channel: nothing to build, nothing to publish
    engine    built by the engine of this machine (and pushed by digest, where the job runs elsewhere)
    remote    built by the cloud from the same context

The name carries the digest of the build context: an image that exists under its name is never built again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from cloudtune.errors import StagingError
from cloudtune.rendering.bundle import content_digest
from cloudtune.rendering.dockerfile import Target

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan

Strategy = Literal["stock", "engine", "remote"]
DIGEST_LETTERS = 16  # of the context's sha256, in the tag

# Amazon's own training images (read 2026-11-23 from the tables of sagemaker 3.27). The newest with our torch is taken;
# transformers, peft and bitsandbytes are not in it and come from the code channel's lock.
STOCK_IMAGES: Final[Mapping[str, Mapping[Target, str]]] = {
    "aws": {"cuda": "pytorch:2.13-cu133-amzn2023-sagemaker"},
}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What there is to make images with: a usable local engine, a repository to push to, builds in the cloud."""

    engine: bool = False
    repository: str | None = None
    remote_build: bool = False


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """``name``: the stock image, or repository:tag with the context's digest. ``reason``: one sentence."""

    strategy: Strategy
    name: str
    reason: str


class ImageBuilder(Protocol):
    """Makes an image from a context. ``find`` answers with the reference to run by, None when there is no such image."""

    def find(self, name: str) -> str | None: ...
    def build(self, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str: ...


def target_of(plan: Plan) -> Target:
    """The image's kind: cuda as soon as the plan has a GPU."""
    return "cuda" if plan.layout.gpus else "cpu"


def image_name(context: Mapping[str, bytes], target: Target, repository: str | None = None) -> str:
    """``<repository>/cloudtune-trainer:<target>-<digest>``; equal contexts have equal names on any machine."""
    place = f"{repository.rstrip('/')}/" if repository else ""
    return f"{place}cloudtune-trainer:{target}-{content_digest(context)[:DIGEST_LETTERS]}"


def choose_image(provider: str, target: Target, context: Mapping[str, bytes], abilities: Abilities) -> ImageChoice:
    """The cheapest way that works, in the order stock, engine, remote. Raises StagingError when there is none."""
    stock = STOCK_IMAGES.get(provider, {}).get(target)
    if stock is not None:
        return ImageChoice("stock", stock, "the platform's own image starts fastest; our code travels as a channel")
    if provider == "local":
        if abilities.engine:
            return ImageChoice("engine", image_name(context, target), "built once by this machine's engine")
        raise StagingError("no container engine is usable here", hint="cloudtune doctor says why; the job also runs as plain processes")
    name = image_name(context, target, abilities.repository)
    if abilities.engine and abilities.repository:
        return ImageChoice("engine", name, "built by this machine's engine and pushed by digest")
    if abilities.remote_build and abilities.repository:
        return ImageChoice("remote", name, "built in the cloud: no engine is needed here")
    missing = "an image repository in the settings" if not abilities.repository else "a container engine or remote builds"
    raise StagingError(f"no way to make an image for {provider}: {missing} is needed", hint="cloudtune doctor shows the settings")


def ensure_image(builder: ImageBuilder, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str:
    """The image's reference: found under its content-hashed name, or built. An unchanged context never builds."""
    found = builder.find(name)
    if found is not None:
        progress(f"image {name} is there already")
        return found
    progress(f"building image {name}")
    return builder.build(name, context, progress)
