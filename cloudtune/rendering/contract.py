"""The same image under each platform's contract, as container specs. Pure: names mounts and variables, starts nothing.

A job's folder is laid out as on SageMaker (``input/ model/ output/ checkpoints/``), whatever the contract: under
Vertex AI's the folder is a bucket that is mounted at /gcs, and the container's own /opt/ml is scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from cloudtune.planning.buckets import is_brought, sources
from cloudtune.recipe.locations import is_builtin, is_local_file, is_local_model
from cloudtune.recipe.spec import Recipe
from cloudtune.rendering.container import ContainerSpec, Mount, Network

Contract = Literal["sagemaker", "vertex", "local"]
ROOT: Final = "/opt/ml"
SECRETS_DIR: Final = "/run/cloudtune-secrets"
CACHE_DIR: Final = "/var/cache/cloudtune"
LABEL: Final = "ai.cloudtune.launch"
LIFELINE: Final = ".launcher-alive"
"""File in a local job's folder that its launcher keeps touching."""
_BUCKET: Final = "cloudtune-here"
_CONTRACTS: Final[Mapping[str, Contract]] = {"aws": "sagemaker", "gcp": "vertex", "local": "local"}

INTERRUPTED: Final[Mapping[Contract, int]] = {"sagemaker": 143, "vertex": 75, "local": 75}
"""The container's exit code after SIGTERM with a saved checkpoint."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use: bytes of memory (None: all), cores (None: all), the network."""

    memory_bytes: int | None = None
    cpus: float | None = None
    network: Network = "none"


def needs_network(recipe: Recipe, provider: str) -> bool:
    """Whether a job of ``provider`` has to reach a hub, a bucket or a tracker from inside; otherwise it gets no network at all."""
    base = recipe.model.base
    model_here = is_builtin(base) or is_local_model(base) or is_brought(base, provider)
    data_here = all(is_local_file(source.path) or is_brought(source.path, provider) for source in sources(recipe))
    trackers = any(name != "tensorboard" for name in recipe.tracking.report_to)
    return not (model_here and data_here) or trackers or recipe.output.push_to_hub is not None


def contract_of(provider: str) -> Contract:
    """The contract that jobs of a provider run under."""
    return _CONTRACTS[provider]


def job_container(contract: Contract, image: str, folder: Path, launch_id: str, limits: Limits = Limits()) -> ContainerSpec:
    """One container that runs the job in ``folder`` as ``contract`` would. Its input is mounted read-only."""
    mounts, variables = _vertex(folder) if contract == "vertex" else _opt_ml(folder)
    if contract == "sagemaker":
        variables = {"TRAINING_JOB_NAME": launch_id, "AWS_REGION": "us-east-1", **variables}
    return ContainerSpec(
        image=image,
        command=("train",),
        name=f"cloudtune-{launch_id}",
        env={"CLOUDTUNE_LAUNCH_ID": launch_id, "OMP_NUM_THREADS": "1", **variables},
        mounts=mounts,
        network=limits.network,
        memory_bytes=limits.memory_bytes,
        cpus=limits.cpus,
        labels={LABEL: launch_id},
    )


def _opt_ml(folder: Path) -> tuple[tuple[Mount, ...], dict[str, str]]:
    return (Mount(folder, ROOT), Mount(folder / "input", f"{ROOT}/input", read_only=True)), {}


def _vertex(folder: Path) -> tuple[tuple[Mount, ...], dict[str, str]]:
    bucket = f"gs://{_BUCKET}"
    variables = {
        "AIP_MODEL_DIR": f"{bucket}/model/",
        "AIP_CHECKPOINT_DIR": f"{bucket}/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{bucket}/logs/",
        "CLOUDTUNE_INPUT": f"{bucket}/input/data",
    }
    return (Mount(folder, f"/gcs/{_BUCKET}"),), variables


def with_cache(spec: ContainerSpec, cache: Path) -> ContainerSpec:
    """The spec with a folder of this machine that outlives jobs (the quickstart's base model)."""
    return replace(spec, mounts=(*spec.mounts, Mount(cache, CACHE_DIR)), env={**spec.env, "CLOUDTUNE_CACHE": CACHE_DIR})


def with_secrets(spec: ContainerSpec, folder: Path) -> ContainerSpec:
    """The spec with secrets as mounted files: whoever asks the engine about the container sees the folder, no value."""
    mount = Mount(folder, SECRETS_DIR, read_only=True)
    return replace(spec, mounts=(*spec.mounts, mount), env={**spec.env, "CLOUDTUNE_SECRETS_DIR": SECRETS_DIR})


def tool_container(spec: ContainerSpec, folder: Path, module: str, *arguments: str) -> ContainerSpec:
    """Another program of the same image on the same folder, with the input writable: what prepares or checks a job."""
    return replace(
        spec,
        entrypoint=("python3", "-m", module),
        command=arguments,
        name=f"{spec.name}-{'-'.join(arguments)}",
        mounts=(Mount(folder, ROOT),),
        env={"CLOUDTUNE_LAUNCH_ID": spec.env["CLOUDTUNE_LAUNCH_ID"], "OMP_NUM_THREADS": "1"},
    )
