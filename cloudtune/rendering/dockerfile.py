"""The Dockerfile's text, made purely: plain features only, so that every builder takes it. Builds nothing.

No ``COPY --chmod``, ``COPY --link``, ``RUN --mount``, heredoc or ``# syntax`` line: each fails in some builder
that users have (docker 20.10's own, BuildKit without a registry, podman, kaniko).
"""

from __future__ import annotations

from typing import Literal

from cloudtune.recipe.resolved import CONTRACT_VERSION

Target = Literal["cuda", "cpu"]

_BASES: dict[Target, str] = {
    # CUDA user-space libraries come with torch's own wheels; the driver comes from the machine.
    "cuda": "python:3.12-slim-bookworm",
    "cpu": "python:3.12-slim-bookworm",
}

_TEXT = """\
ARG BASE={base}
FROM ${{BASE}}
LABEL org.opencontainers.image.title="cloudtune trainer ({target})" \\
      ai.cloudtune.version="{version}" \\
      ai.cloudtune.contract="{contract}"
ENV PYTHONUNBUFFERED=1 \\
    PIP_NO_CACHE_DIR=1 \\
    PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    TOKENIZERS_PARALLELISM=false \\
    PYTHONPATH=/opt/cloudtune
COPY requirements.txt /opt/cloudtune/requirements.txt
RUN python3 -m pip install -r /opt/cloudtune/requirements.txt
COPY trainer /opt/cloudtune
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "cloudtune_trainer"]
"""


def dockerfile(target: Target, version: str) -> str:
    """The Dockerfile of the release's image for ``target``; the base can be replaced with ``--build-arg BASE=``."""
    return _TEXT.format(base=_BASES[target], target=target, version=version, contract=CONTRACT_VERSION)
