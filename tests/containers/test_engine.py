"""The engine: a probe that cannot be fooled, streamed builds, a failing step's last lines, and containers by their spec."""

from __future__ import annotations

import gc
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudtune.engine import containers, images
from cloudtune.engine.client import EngineError, connect
from cloudtune.engine.images import BuildFailed, BuildLine
from cloudtune.engine.probe import candidates, probe, program, usable_engine
from cloudtune.errors import NotFoundError, UnavailableError
from cloudtune.rendering.container import ContainerSpec
from tests.containers.conftest import Engine

BASE = b"FROM python:3.11-slim-bookworm\n"


@contextmanager
def forger(real: str, folder: Path, pattern: bytes, forged: bytes) -> Iterator[str]:
    """A socket before the real engine that replaces what ``pattern`` finds in every answer (same length, so HTTP stays whole)."""
    path = folder / "f.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(real.removeprefix("unix://"))
            threading.Thread(target=pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, True), daemon=True).start()

    def pump(source: socket.socket, sink: socket.socket, lie: bool) -> None:
        with source, sink:
            try:
                while chunk := source.recv(65536):
                    sink.sendall(re.sub(pattern, lambda hit: forged.ljust(len(hit[0])), chunk) if lie else chunk)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        server.close()


@pytest.mark.engine
def test_the_real_engine_passes_and_leaves_nothing(engine: Engine):
    before = {image["Id"] for image in engine.connection.api.images()}
    verdict = probe(engine.url)
    assert verdict.usable, verdict
    assert verdict.kind == engine.kind
    assert {image["Id"] for image in engine.connection.api.images()} == before
    assert not [item for item in engine.connection.api.containers(all=True) if "cloudtune-probe" in item["Names"][0]]


@pytest.mark.engine
def test_an_engine_that_loses_exit_codes_is_found_out(engine: Engine, tmp_path: Path):
    with forger(engine.url, tmp_path, rb'"ExitCode":\d+', b'"ExitCode":0') as url:
        verdict = probe(url)
    assert not verdict.usable
    assert "loses exit codes" in verdict.reason


@pytest.mark.engine
def test_an_engine_that_does_not_see_our_folders_is_found_out(engine: Engine, tmp_path: Path):
    """What a remote engine does: everything runs, but the mounted file is another machine's (here: hidden from the log)."""
    with forger(engine.url, tmp_path, rb"[0-9a-f]{32}(?![0-9a-f])", b"0" * 32) as url:
        verdict = probe(url)
    assert not verdict.usable


def test_dead_and_absent_engines_are_named_with_the_systems_own_reason(tmp_path: Path):
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(dead))
    assert "connection refused" in probe(f"unix://{dead}").reason
    assert "no such file" in probe(f"unix://{tmp_path}/none.sock").reason
    with pytest.raises(EngineError, match="connection refused") as error:
        usable_engine({"DOCKER_HOST": f"unix://{dead}"})
    assert error.value.hint


def test_docker_host_is_the_only_candidate_when_it_is_set():
    assert candidates({"DOCKER_HOST": "tcp://10.0.0.1:2375"}) == ("tcp://10.0.0.1:2375",)


def test_the_probes_program_is_the_same_bytes_for_the_same_question():
    assert program("/a", 7) == program("/a", 7) != program("/a", 8)
    assert program("/a", 7).startswith(b"\x7fELF")
    assert len(program("/cloudtune-probe/nonce", 7)) < 256


@pytest.mark.engine
def test_a_build_streams_its_lines_with_their_step(engine: Engine):
    seen: list[BuildLine] = []
    text = BASE + f"RUN echo first-{os.getpid()}\nRUN echo second-{os.getpid()}\n".encode()
    images.build_image(engine.connection, "cloudtune-test:lines", {"Dockerfile": text}, on_line=seen.append)
    assert [(line.step, line.steps) for line in seen if line.text.startswith(("first", "second"))] == [(2, 3), (3, 3)]
    assert seen[-1].step == 3


@pytest.mark.engine
def test_a_failing_step_is_named_with_its_last_lines(engine: Engine):
    broken = BASE + b"RUN echo fine\nRUN echo going wrong; echo very wrong >&2; exit 9\n"
    with pytest.raises(BuildFailed) as failure:
        images.build_image(engine.connection, "cloudtune-test:broken", {"Dockerfile": broken})
    assert "step 3 of 3" in failure.value.what
    assert set(failure.value.log_tail) == {"going wrong", "very wrong"}


@pytest.mark.engine
def test_failures_leave_no_connection_open(engine: Engine, tmp_path: Path):
    """Dead and absent engines, failing builds, missing images: counted in /proc, with the garbage collector at rest."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(dead))
    connection = connect(engine.url)
    gc.collect()
    gc.disable()
    try:
        before, seen = open_sockets(), []
        for _ in range(4):
            assert not probe(f"unix://{dead}").usable
            assert not probe(f"unix://{tmp_path}/none.sock").usable
            with pytest.raises(BuildFailed):
                images.build_image(connection, "cloudtune-test:broken", {"Dockerfile": BASE + b"RUN exit 9\n"})
            with pytest.raises(NotFoundError):
                containers.create(connection, ContainerSpec(image="cloudtune-nowhere.invalid/none:1"))
            seen.append(open_sockets())
        assert len(set(seen)) == 1, "what the first round opened waits in the connection's pool, and no later round adds to it"
        connection.close()
        assert open_sockets() < before
    finally:
        gc.enable()


def open_sockets() -> int:
    """Of this process."""
    return sum(str(place.readlink()).startswith("socket:") for place in Path("/proc/self/fd").iterdir() if place.is_symlink())


@pytest.mark.engine
def test_a_base_that_is_nowhere_says_what_to_do(engine: Engine):
    with pytest.raises(BuildFailed) as failure:
        images.build_image(engine.connection, "cloudtune-test:none", {"Dockerfile": b"FROM cloudtune-nowhere.invalid/base:1\n"})
    assert failure.value.hint


@pytest.mark.engine
def test_a_missing_image_is_not_pulled(engine: Engine):
    with pytest.raises(NotFoundError):
        containers.create(engine.connection, ContainerSpec(image="cloudtune-nowhere.invalid/none:1"))


@pytest.mark.engine
def test_no_network_means_loopback_only_and_waiting_has_an_end(engine: Engine):
    spec = ContainerSpec(image="python:3.11-slim-bookworm", name="cloudtune-test-net", command=("sh", "-c", "ls /sys/class/net; sleep 30"))
    containers.create(engine.connection, spec)
    try:
        containers.start(engine.connection, "cloudtune-test-net")
        with pytest.raises(UnavailableError):
            containers.wait(engine.connection, "cloudtune-test-net", 1)
        assert containers.log_text(engine.connection, "cloudtune-test-net").split() == ["lo"]
        containers.stop(engine.connection, "cloudtune-test-net", 0)
        assert containers.find(engine.connection, "cloudtune-test-net").exit_code == 137
        containers.stop(engine.connection, "cloudtune-test-net", 0)
    finally:
        containers.remove(engine.connection, "cloudtune-test-net")
        containers.remove(engine.connection, "cloudtune-test-net")
    assert containers.find(engine.connection, "cloudtune-test-net") is None


def test_equal_contexts_are_equal_tars():
    files = {"b": b"2", "a/x": b"1"}
    assert images.context_tar(files) == images.context_tar(dict(reversed(files.items())))


@pytest.mark.engine
def test_connecting_to_something_else_is_an_engine_error(tmp_path: Path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=_hang_up, args=(server,), daemon=True).start()
        with pytest.raises(EngineError):
            connect(f"unix://{path}")


def _hang_up(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return
