"""The same questions to podman's docker socket: the probe's, and everything that the supervisor does in a container.

Only in the full run, because it installs and starts a second engine. Root on Debian; the other tests run on it as well,
with CLOUDTUNE_ENGINE_KIND=podman.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtune.engine import images
from cloudtune.engine.client import connect
from cloudtune.engine.images import BuildFailed
from cloudtune.engine.probe import probe
from tests.containers.conftest import Engine, build_supervisor, running_engine
from tests.containers.test_supervisor import (  # noqa: F401 - collected here once more, with the engine below
    test_a_started_user_is_kept,
    test_exit_codes_and_markers,
    test_full_disk_is_a_failure_and_not_a_hang,
    test_memory_limit_ends_with_137_and_says_so,
    test_read_only_root_is_enough,
    test_sigterm_reaches_the_trainer_and_ends_as_interrupted,
    test_vertex_results_and_marked_checkpoints_reach_the_bucket_and_come_back,
)
from tests.engine import private

pytestmark = [pytest.mark.engine, pytest.mark.full]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    yield from running_engine(private.PrivateEngine(Path("/tmp/ct-podman"), "podman"))


@pytest.fixture(scope="module")
def supervisor_image(engine: Engine) -> str:
    return build_supervisor(engine)


def test_the_probe_knows_podman_and_says_what_it_found(engine: Engine):
    verdict = probe(engine.url)
    assert verdict.usable, verdict
    assert verdict.kind == "podman"
    connection = connect(engine.url)
    assert connection.kind == "podman"
    connection.close()


def test_podman_as_installed_is_usable_or_says_what_to_set(tmp_path: Path):
    """Without our containers.conf, on folders of its own: where root may not raise limits, the probe names the remedy."""
    folder = Path("/tmp/ct-podman-plain")
    folder.mkdir()
    place = private.PrivateEngine(folder, "podman")
    command = ["podman", *private.podman_places(place), "system", "service", "--time=0", place.url]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as service:
        try:
            deadline = time.monotonic() + 30
            while not private.answers(place) and time.monotonic() < deadline:
                time.sleep(0.1)
            verdict = probe(place.url)
        finally:
            private.down(place)
            service.terminate()
    assert verdict.usable or "default_ulimits in its containers.conf" in verdict.reason or "cgroups in hybrid mode" in verdict.reason


def test_a_failing_step_of_its_build_is_named(engine: Engine):
    with pytest.raises(BuildFailed) as failure:
        images.build_image(
            engine.connection, "cloudtune-test:broken", {"Dockerfile": b"FROM python:3.11-slim-bookworm\nRUN echo bad; false\n"}
        )
    assert "step 2 of 2" in failure.value.what
    assert "bad" in failure.value.log_tail
