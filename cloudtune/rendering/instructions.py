"""The README of a written bundle: what the files are, and the commands that build and run it by hand. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cloudtune.rendering.bundle import Bundle
from cloudtune.rendering.jobfile import LocalInput

_TEXT = """\
# cloudtune bundle {digest}

    image/    the build context: Dockerfile, locked requirements, the trainer's sources. Equal for every recipe of this release.
    job/      what this job is told: job.json with every `auto` decided{template}. No secret and no path of your machine.

Build (any docker or podman; nothing but the base image and the package index is fetched):

    docker build -t {name} image

Run it as SageMaker would, without a network, results in ./out:

    mkdir -p out/model out/output out/checkpoints
    docker run --rm --network none \\
        -v "$PWD/job:/opt/ml/input/data/job:ro" \\
{mounts}        -v "$PWD/out/model:/opt/ml/model" -v "$PWD/out/output:/opt/ml/output" -v "$PWD/out/checkpoints:/opt/ml/checkpoints" \\
        {name}

Exit codes: 0 complete, 1 failed (out/output/failure says why), 75 interrupted with a checkpoint, 137 killed (memory).
A model or data set from a hub or bucket needs the network: leave `--network none` out and pass what `secrets` names with -e.
{notes}
Digest of the image's files: {image_digest}
"""


def instructions(bundle: Bundle, name: str, inputs: Sequence[LocalInput]) -> str:
    """Text for ``README.md`` of a bundle's folder. Data files are named by their place in the job, not on your machine."""
    mounts = "".join(f'        -v "{_variable(item)}:/opt/ml/input/data/{item.channel}:ro" \\\n' for item in inputs)
    legend = "".join(f"\n    {_variable(item)} is your file or folder {item.source.name}" for item in inputs)
    return _TEXT.format(
        digest=bundle.digest[:16],
        image_digest=bundle.image_digest,
        template=", and the chat template" if len(bundle.job) > 1 else "",
        name=name,
        mounts=mounts,
        notes=f"\nSet these first (absolute paths):{legend}\n" if inputs else "",
    )


def _variable(item: LocalInput) -> str:
    letters = "".join(letter if letter.isalnum() else "_" for letter in item.channel.split(".")[0])
    return f"${letters.upper()}"
