"""The environment of a local trainer: an allow-list of what it needs, the contract's variables, and secrets by name.

Secret values pass from this process's environment to the trainer's and are written nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import RejectedError
from cloudtune.resources import resource_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudtune.job import LaunchId

_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "XDG_CACHE_HOME"),
        *("HF_HOME", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "CUBLAS_WORKSPACE_CONFIG"),
    }
)
_BEGINNINGS = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_", "TORCH_", "BNB_")
_PACKAGE_HOME = Path(__file__).resolve().parents[3]  # the folder that holds the cloudtune package


def trainer_environment(
    launch_id: LaunchId, root: Path, cache: Path, secrets: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables for the trainer of ``launch_id``. ``secrets``: variable name → source.

    Raises RejectedError for a secret that is not in ``environ``, or from a source that this machine does not have.
    """
    kept = {name: value for name, value in environ.items() if name in _NAMES or name.startswith(_BEGINNINGS)}
    kept.update({name: _secret(name, source, environ) for name, source in secrets.items()})
    containers = resource_dir("containers")
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(containers / "trainer"), str(_PACKAGE_HOME)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CLOUDTUNE_ROOT": str(root),
        "CLOUDTUNE_LAUNCH_ID": launch_id,
        "CLOUDTUNE_CACHE": str(cache),
    }


def _secret(name: str, source: str, environ: Mapping[str, str]) -> str:
    if source != "env":
        raise RejectedError(
            f"the secret {name} comes from {source.partition(':')[0]}, which a job on this machine cannot ask",
            code="secret-source",
            hint=f"write `{name}: env` and export {name} before launching",
        )
    if name not in environ:
        raise RejectedError(
            f"the secret {name} is not in the environment", code="secret-missing", hint=f"export {name}=... before launching"
        )
    return environ[name]
