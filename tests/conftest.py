"""For all tests: no test touches the home, cache or settings of the person who runs it, or reaches a model hub."""

from __future__ import annotations

import os
import signal
import tracemalloc  # noqa: F401 - whole before the first warning: pytest asks it in a hook that can run inside its own import
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """A runner in the background starts us with SIGINT or SIGHUP ignored, and programs inherit that: tests send both."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


SLOW_FIRST = ("containers", "e2e", "trainer", "colab", "standins", "contract", "house", "unit")
# It needs the base model, which the containers' tests are making when it would be its turn: a worker would wait for the other.
NOT_YET = {"tests/e2e/test_demo.py": "trainer"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``make test`` on several workers: see tests/scheduling.py."""
    from tests.scheduling import FilesAndEngine

    return FilesAndEngine(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers the slow folders come first, so that no worker is left with a long one at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (folder_rank(item), item.nodeid.partition("::")[0]))


def folder_rank(item: pytest.Item) -> int:
    """Where the item's folder stands in SLOW_FIRST."""
    folder = NOT_YET.get(item.nodeid.partition("::")[0]) or item.nodeid.split("/")[1]
    return SLOW_FIRST.index(folder) if folder in SLOW_FIRST else len(SLOW_FIRST)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run, so that the small base model is trained once; xdist workers share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cloudtune-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh home, shared cache, no user settings, no login, no hub, whatever the environment says."""
    for name in [name for name in os.environ if name.startswith("CLOUDTUNE_") and name != "CLOUDTUNE_REWRITE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDTUNE_HOME", str(tmp_path / "cloudtune-home"))
    monkeypatch.setenv("CLOUDTUNE_CACHE", str(shared_cache))
    monkeypatch.setenv("CLOUDTUNE_CONFIG", str(tmp_path / "no-settings.toml"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # a login of the machine's own would be the runner's
    google = ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_", "STORAGE_EMULATOR_HOST")
    for name in [name for name in os.environ if name.startswith(google)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("COLUMNS", raising=False)
