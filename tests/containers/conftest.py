"""A real container engine for the tests, started when the first test asks for it and taken down at the end.

In CI (CI=true) an unusable engine fails the tests: a skip there would read as green. Elsewhere it skips with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudtune import __version__
from cloudtune.engine import images
from cloudtune.engine.builder import EngineBuilder
from cloudtune.engine.client import Connection, connect
from cloudtune.engine.probe import probe
from cloudtune.rendering.image import ensure_image, image_name
from cloudtune.verbs.render import image_context
from tests.containers.jobs import ROOT, STAND_IN
from tests.engine import private

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


@dataclass(frozen=True)
class Engine:
    """The private engine and a connection to it."""

    url: str
    connection: Connection
    kind: str


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    yield from running_engine(private.default_engine())


def running_engine(place: private.PrivateEngine) -> Iterator[Engine]:
    """The engine at ``place``, started when nobody started it before."""
    try:
        ours = private.up(place, may_install=IN_CI)
    except private.Unusable as reason:
        if IN_CI:
            pytest.fail(f"no container engine in CI: {reason}")
        pytest.skip(f"no container engine: {reason}")
    try:
        verdict = probe(place.url)
        if not verdict.usable:
            (pytest.fail if IN_CI else pytest.skip)(str(verdict))
        connection = connect(place.url)
        yield Engine(place.url, connection, place.kind)
        connection.close()
    finally:
        if ours:
            private.down(place)


@pytest.fixture(scope="session")
def build_log() -> list[str]:
    """Lines of the trainer image's build, filled when it is built."""
    return []


@pytest.fixture(scope="session")
def trainer_context() -> dict[str, bytes]:
    """The build context of the cpu image, read once."""
    return image_context("cpu", __version__)


@pytest.fixture(scope="session")
def trainer_image(engine: Engine, build_log: list[str], trainer_context: dict[str, bytes]) -> str:
    """The cpu image, built from the rendered context exactly as a user's engine would build it."""
    name = image_name(trainer_context, "cpu")
    return ensure_image(EngineBuilder(engine.connection), name, trainer_context, build_log.append)


@pytest.fixture(scope="session")
def supervisor_image(engine: Engine) -> str:
    """The supervisor with a stand-in trainer: built in a second, for everything that the supervisor does alone."""
    return build_supervisor(engine)


def build_supervisor(engine: Engine) -> str:
    """Build it on ``engine`` and return its id."""
    entry = ROOT / "containers" / "trainer" / "cloudtune_entry"
    files = {f"code/cloudtune_entry/{path.name}": path.read_bytes() for path in entry.glob("*.py")}
    files["code/cloudtune_trainer.py"] = STAND_IN
    files["Dockerfile"] = (
        b"FROM python:3.11-slim-bookworm\nENV PYTHONPATH=/code PYTHONUNBUFFERED=1\nCOPY code /code\n"
        b'ENTRYPOINT ["python3", "-m", "cloudtune_entry"]\nCMD ["train"]\n'
    )
    return images.build_image(engine.connection, "cloudtune-test-supervisor:1", files)


@pytest.fixture(scope="session")
def quickstart_base(shared_cache: Path) -> Path:
    """Where the quickstart's base model is built once for all runs, writable for any user of a container."""
    for place in (shared_cache.parent, shared_cache.parent.parent):
        place.chmod(0o755)
    shared_cache.chmod(0o777)
    (shared_cache / "models").mkdir(exist_ok=True)
    (shared_cache / "models").chmod(0o777)
    return shared_cache


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """An empty folder that containers of any user can reach."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == Path.home().owner() and parent != Path("/") and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    folder = tmp_path / "job"
    folder.mkdir()
    return folder
