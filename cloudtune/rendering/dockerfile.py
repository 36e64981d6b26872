"""The Dockerfile's text, made purely: plain features only, so that every builder takes it. Builds nothing.

No ``COPY --chmod``, ``COPY --link``, ``RUN --mount``, heredoc or ``# syntax`` line: each fails in some builder
that users have (docker 20.10's own, BuildKit without a registry, podman, kaniko). What changes seldom comes first:
a new trainer reuses the layer with torch in it.
"""

from __future__ import annotations

from typing import Final, Literal

from cloudtune.recipe.resolved import CONTRACT_VERSION

Target = Literal["cuda", "cpu"]

# CUDA's user-space libraries come with torch's own wheels and the driver from the machine, so both targets stand
# on the same small base. The Python is the one that the tests run.
BASE: Final = "python:3.11-slim-bookworm"
CODE_DIR: Final = "/opt/cloudtune"

# CUDA 12.6: Vertex AI's drivers refuse images built on 12.8 and later (huggingface/Google-Cloud-Containers, 2026-05),
# and SageMaker's run anything up to 13; torch 2.13 is built for 12.6 (pytorch/pytorch#197555).
_TORCH_INDEX: Final[dict[Target, str]] = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cuda": "https://download.pytorch.org/whl/cu126",
}

# Where a platform mounts its driver. Deliberately no CUDA compatibility layer in front of it: Vertex AI rolls its
# drivers forward, and older compatibility libraries then hide the newer driver (VIAME/VIAME#273).
_CUDA_ENVIRONMENT = (
    "NVIDIA_VISIBLE_DEVICES=all",
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "LD_LIBRARY_PATH=/usr/local/nvidia/lib64",
    "PATH=/usr/local/nvidia/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
_ENVIRONMENT = (
    "PYTHONUNBUFFERED=1",
    "PIP_NO_CACHE_DIR=1",
    "PIP_PROGRESS_BAR=off",
    "PIP_DISABLE_PIP_VERSION_CHECK=1",
    f"PYTHONPATH={CODE_DIR}",
)

_TEXT = """\
# The trainer of cloudtune {version} for {target}. Written by `cloudtune render`; the same release gives the same bytes.
# The recipe is not in here: job.json is mounted, so this one image serves every recipe.
ARG BASE={base}
FROM ${{BASE}}
ENV {environment}
WORKDIR {code}
COPY requirements.txt requirements.txt
# torch comes from its own index, and last: everything that it needs is there by then, at the version of the lock.
RUN grep -v '^torch==' requirements.txt > rest.txt \\
    && grep '^torch==' requirements.txt > torch.txt \\
    && python3 -m pip install --no-deps -r rest.txt \\
    && python3 -m pip install --extra-index-url {index} -r torch.txt \\
    && python3 -m pip check
COPY trainer ./
LABEL org.opencontainers.image.title="cloudtune trainer ({target})" \\
      org.opencontainers.image.licenses="Apache-2.0" \\
      ai.cloudtune.version="{version}" \\
      ai.cloudtune.contract="{contract}"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "cloudtune_entry"]
CMD ["train"]
"""


def dockerfile(target: Target, version: str) -> str:
    """The Dockerfile of the release's image for ``target``; the base can be replaced with ``--build-arg BASE=``."""
    environment = (*_ENVIRONMENT, *(_CUDA_ENVIRONMENT if target == "cuda" else ()))
    return _TEXT.format(
        base=BASE,
        target=target,
        version=version,
        contract=CONTRACT_VERSION,
        code=CODE_DIR,
        index=_TORCH_INDEX[target],
        environment=" \\\n    ".join(environment),
    )
