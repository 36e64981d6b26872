"""A secret of the environment, named by the recipe, is searched for wherever a job leaves traces, and is nowhere.

The control plants it in each of these places and requires that the same search finds it there.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtune import __version__
from cloudtune.engine import containers, images
from cloudtune.engine.client import Connection
from cloudtune.job import JobState
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.render import render, write_bundle
from tests.containers.conftest import Engine
from tests.containers.jobs import QUICKSTART, SHORT, plan_of

pytestmark = [pytest.mark.engine, pytest.mark.stack]
SECRET = "hf_Zx9-planted-secret-4711"


def below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, databases and their journals included."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def of_image(connection: Connection, image: str) -> Iterator[tuple[str, bytes]]:
    """History and configuration of an image, and every file of the layers that are ours (the code, not the packages)."""
    yield "image history", json.dumps(connection.api.history(image)).encode()
    yield "image configuration", json.dumps(connection.api.inspect_image(image)).encode()
    made = connection.api.create_container(image)["Id"]
    try:
        chunks, _ = connection.api.get_archive(made, "/opt/cloudtune")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            for member in archive:
                if member.isfile():
                    yield f"image:{member.name}", archive.extractfile(member).read()
    finally:
        containers.remove(connection, made)


def places_with(secret: str, found: Iterator[tuple[str, bytes]]) -> list[str]:
    return [name for name, content in found if secret.encode() in content]


def test_the_secret_is_nowhere(engine: Engine, trainer_image: str, tmp_path: Path, quickstart_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    plan = plan_of(QUICKSTART, *SHORT, "secrets.HF_TOKEN=env")
    write_bundle(render(plan), tmp_path / "bundle", plan)
    home = tmp_path / "home"
    with Session.open(Settings(home=home, cache=quickstart_base, local_mode="container")) as session:
        said: list[str] = []
        view = launch(plan, session=session, launch_id="with-secret", progress=said.append)
        seen = inspected(engine, "cloudtune-with-secret")
        finished(session, view.id)
        collect(view.id, session=session, to=tmp_path / "collected")
    assert SECRET not in "\n".join(said)
    assert SECRET.encode() not in seen
    assert b"/run/cloudtune-secrets" in seen, "the container was looked at while it ran"
    for folder in (tmp_path / "bundle", home, tmp_path / "collected"):
        assert list(below(folder))
        assert places_with(SECRET, below(folder)) == []
    assert places_with(SECRET, of_image(engine.connection, trainer_image)) == []
    assert "the secret" not in (home / "local/with-secret/log.txt").read_text(), "the secret did reach the job"


def test_the_search_finds_a_planted_secret(engine: Engine, tmp_path: Path):
    for name in ("bundle/job/job.json", "home/ledger.sqlite3-wal", "home/local/x/log.txt"):
        place = tmp_path / name
        place.parent.mkdir(parents=True)
        place.write_bytes(b"\x00\x01" + SECRET.encode())
    assert len(places_with(SECRET, below(tmp_path))) == 3
    context = {
        "Dockerfile": f"FROM python:3.11-slim-bookworm\nENV TOKEN={SECRET}\nCOPY x /opt/cloudtune/x\nCMD true\n".encode(),
        "x": SECRET.encode(),
    }
    image = images.build_image(engine.connection, f"cloudtune-test:planted-{__version__}", context)
    found = places_with(SECRET, of_image(engine.connection, image))
    assert {"image history", "image configuration"} < set(found)
    assert "image:cloudtune/x" in found
    engine.connection.api.remove_image(image, force=True)


def inspected(engine: Engine, name: str) -> bytes:
    """What the engine tells whoever asks about the running container."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if containers.find(engine.connection, name) is not None:
            return json.dumps(engine.connection.api.inspect_container(name)).encode()
        time.sleep(0.05)
    raise AssertionError("the container did not start")


def finished(session: Session, launch_id: str) -> None:
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        view = status(launch_id, session)
        if view.ended:
            assert view.state is JobState.SUCCEEDED, view.message
            return
        time.sleep(0.3)
    raise AssertionError(f"{launch_id} did not end in time")
