"""Pushing by digest into a real registry: found again, refused, with a stale login, over a wire that breaks, and resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.engine.client import EngineError
from cloudtune.engine.images import find_image
from cloudtune.engine.push import WAITS_SECONDS, Credentials, PushingBuilder, _in_our_words, find_pushed, push_image
from cloudtune.errors import AuthError, NotFoundError, RejectedError, ThrottledError, UnavailableError
from cloudtune.rendering.image import ensure_image, image_name
from tests.containers.conftest import IN_CI, Engine
from tests.containers.registry import GOOD, STALE, NoRegistry, Registry, ensure_installed, registry

LAYER = 3 << 20


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry of these tests; each of them has names of its own in it."""
    try:
        ensure_installed(may_install=IN_CI)
    except NoRegistry as reason:
        (pytest.fail if IN_CI else pytest.skip)(str(reason))
    with registry(tmp_path_factory.mktemp("registry") / "r") as running:
        yield running


def context(name: str, layers: int = 2) -> dict[str, bytes]:
    """An image from scratch with ``layers`` layers that no other test has and that do not shrink on their way."""
    parts = {f"part{number}": os.urandom(LAYER) for number in range(layers)}
    copies = "".join(f"COPY {part} /{part}\n" for part in parts)
    return {**parts, "Dockerfile": f'FROM scratch\nLABEL test="{name}"\n{copies}CMD ["/none"]\n'.encode()}


@pytest.fixture
def tidy(engine: Engine) -> Iterator[None]:
    """No image of these tests stays on the engine."""
    before = {image["Id"] for image in engine.connection.api.images()}
    yield
    for image in engine.connection.api.images():
        if image["Id"] not in before:
            engine.connection.api.remove_image(image["Id"], force=True)


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_an_image_is_pushed_once_and_named_by_its_digest(engine: Engine, shelf: Registry):
    files = context("once")
    name = image_name(files, "cpu", f"{shelf.host}/team")
    builder, said = PushingBuilder(engine.connection, lambda: GOOD), []
    assert builder.find(name) is None
    reference = ensure_image(builder, name, files, said.append)
    repository, _, digest = reference.partition("@")
    assert repository == f"{shelf.host}/team/cloudtune-trainer"
    assert len(digest) == len("sha256:") + 64
    assert any(line.endswith("is there") for line in said)
    arrived = shelf.uploads()
    again: list[str] = []
    assert ensure_image(builder, name, files, again.append) == reference
    assert again == [f"image {name} is there already"]
    assert shelf.uploads() == arrived
    # What lies in the registry is the image: fetched by its digest on an engine that has forgotten it.
    engine.connection.api.remove_image(name, force=True)
    engine.connection.api.remove_image(name.rpartition("/")[2], force=True)
    assert find_image(engine.connection, reference) is None
    engine.connection.api.pull(reference, auth_config=GOOD.for_engine())
    assert engine.connection.api.inspect_image(reference)["Config"]["Labels"]["test"] == "once"


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_an_image_that_a_dry_run_built_is_not_built_again(engine: Engine, shelf: Registry):
    files = context("dry-run-first", layers=1)
    plain, name = image_name(files, "cpu"), image_name(files, "cpu", shelf.host)
    built = ensure_image(_local(engine), plain, files, lambda _: None)
    said: list[str] = []
    PushingBuilder(engine.connection, lambda: GOOD).build(name, files, said.append)
    assert not [line for line in said if line.startswith("[")], "no step was built"
    assert find_image(engine.connection, name) == built


def _local(engine: Engine) -> object:
    from cloudtune.engine.builder import EngineBuilder

    return EngineBuilder(engine.connection)


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_a_wrong_or_missing_login_is_one_sentence_and_nothing_arrives(
    engine: Engine, shelf: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # no login of this machine's user
    files = context("refused", layers=1)
    name = image_name(files, "cpu", f"{shelf.host}/refused")
    before = shelf.blobs()
    for login in (lambda: STALE, lambda: None):
        with pytest.raises(AuthError) as error:
            PushingBuilder(engine.connection, login).find(name)
        with pytest.raises(AuthError) as error:
            PushingBuilder(engine.connection, login, VirtualClock()).build(name, files, lambda _: None)
        assert f"docker login {shelf.host}" in error.value.hint
        assert STALE.password not in str(error.value)
    assert shelf.blobs() == before


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_the_engines_own_login_is_used_when_none_is_given(engine: Engine, shelf: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What ``docker login`` wrote, read by the docker package as for any other program."""
    import base64
    import json

    from cloudtune.engine.client import connect

    token = base64.b64encode(f"{GOOD.username}:{GOOD.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {shelf.host: {"auth": token}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    connection = connect(engine.url)  # reads the file when it is made
    try:
        files = context("stored-login", layers=1)
        reference = PushingBuilder(connection, lambda: None).build(image_name(files, "cpu", shelf.host), files, lambda _: None)
        assert "@sha256:" in reference
    finally:
        connection.close()


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_a_login_that_ran_out_is_renewed_once(engine: Engine, shelf: Registry):
    files, asked = context("renewed", layers=1), []

    def login() -> Credentials:
        asked.append(1)
        return STALE if len(asked) == 1 else GOOD

    name = image_name(files, "cpu", f"{shelf.host}/renewed")
    assert "@sha256:" in PushingBuilder(engine.connection, login, VirtualClock()).build(name, files, lambda _: None)
    assert len(asked) == 2


_BODY = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "Rate exceeded"}]}'
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\n"
BUSY += b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(BUSY, "TOOMANYREQUESTS", id="throttled"),
        pytest.param(b"", "", id="cut", marks=pytest.mark.full),  # the engine's own five tries take 50 s
    ],
)
def test_a_push_that_broke_off_goes_on_where_it_was(engine: Engine, shelf: Registry, answer: bytes, kind: str):
    """A small layer arrives, the large one is stopped half way until the engine gives up; then the wire is whole again."""

    class Mended(VirtualClock):
        def sleep(self, seconds: float) -> None:
            shelf.wire.stop_after = None
            super().sleep(seconds)

    files = {"small": os.urandom(1000), "large": os.urandom(LAYER)}
    files["Dockerfile"] = b"FROM scratch\nCOPY small /small\nCOPY large /large\n"
    name = image_name(files, "cpu", f"{shelf.host}/resumed")
    clock, before = Mended(), shelf.uploads()
    said: list[str] = []
    shelf.wire.answer, shelf.wire.stop_after = answer, LAYER // 2
    try:
        reference = PushingBuilder(engine.connection, lambda: GOOD, clock).build(name, files, said.append)
    finally:
        shelf.wire.stop_after = None
    assert shelf.wire.stopped >= 1
    assert clock.monotonic() == WAITS_SECONDS[0], "one attempt of ours broke off and one went through"
    assert any("broke off" in line and kind.lower() in line for line in said), said
    assert any("was there already" in line for line in said), "the small layer was not sent twice"
    assert shelf.uploads() == before + 3, "two layers and the configuration"
    assert find_pushed(engine.connection, name, lambda: GOOD) == reference


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_a_registry_that_is_not_there_is_given_up_in_the_end(engine: Engine, tmp_path: Path):
    files, clock = context("nowhere", layers=1), VirtualClock()
    name = image_name(files, "cpu", "127.0.0.1:9/nowhere")
    with pytest.raises(UnavailableError) as error:
        PushingBuilder(engine.connection, lambda: GOOD, clock).build(name, files, lambda _: None)
    assert "connection refused" in error.value.what
    assert clock.monotonic() == sum(WAITS_SECONDS)
    with pytest.raises(NotFoundError, match="no image"):
        push_image(engine.connection, "127.0.0.1:9/never-built:1", lambda: GOOD, lambda _: None)


@pytest.mark.engine
def test_credentials_are_shown_nowhere(engine: Engine, shelf: Registry):
    assert GOOD.password not in repr(GOOD)
    assert GOOD.username in repr(GOOD)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("name unknown: The repository with name 'geofence' does not exist in the registry with id '123456789012'", NotFoundError),
        ('name unknown: Repository "trainer" not found', NotFoundError),
        (
            "tag invalid: The image tag 'cpu-1' already exists in the 'x' repository and cannot be overwritten: immutable",
            RejectedError,
        ),
        ("denied: Your authorization token has expired. Reauthenticate and try again.", AuthError),
        ('denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on resource "projects/p"', AuthError),
        ("no basic auth credentials", AuthError),
        ("toomanyrequests: Rate exceeded", ThrottledError),
        ('Put "https://x/v2/geofence/blobs/uploads/1": EOF', UnavailableError),
        ("received unexpected HTTP status: 503 Service Unavailable", UnavailableError),
        ("dial tcp: lookup eu-docker.pkg.example on 10.0.0.2:53: no such host", EngineError),
        ("the geofence is 429 m long", EngineError),
    ],
)
def test_what_registries_say_becomes_an_error_of_ours(text: str, kind: type[Exception]):
    error = _in_our_words("eu-docker.pkg.example/p/trainer:cpu-1", text)
    assert type(error) is kind
    assert error.hint
    assert text in error.what
