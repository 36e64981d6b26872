"""One job's container in the foreground: what provider ``local`` runs instead of the trainer when jobs go into containers.

    python -m cloudtune.engine.foreground --engine unix:///... --image sha256:... --network none [--secret NAME ...]

The job's folder is CLOUDTUNE_ROOT, its id CLOUDTUNE_LAUNCH_ID. The container's name carries the id, so there is never a
second one: a running one is taken over. Its lines go to stdout, SIGTERM is passed on, its exit code is ours. While we
live we touch a file in the job's folder; a container whose file stands still saves and ends by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from cloudtune.engine import containers
from cloudtune.engine.client import Connection, connect
from cloudtune.errors import CloudtuneError
from cloudtune.rendering.container import ContainerSpec, Mount
from cloudtune.rendering.contract import LIFELINE, ROOT, Limits, job_container, with_cache, with_secrets

TICK_SECONDS = 0.25
LAST_LINES_SECONDS = 10


@dataclass
class Asked:
    """Whether somebody asked the job to end, and whether that was passed on."""

    to_stop: bool = False
    passed_on: bool = False

    def note(self, _number: int, _frame: FrameType | None) -> None:
        self.to_stop = True


def main(arguments: list[str] | None = None) -> int:
    """Run the job's container to its end; returns its exit code, or 1 with a sentence when the engine refuses."""
    options = _parser().parse_args(arguments)
    asked = Asked()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked.note)
    root = Path(os.environ["CLOUDTUNE_ROOT"])
    secrets = Path(tempfile.mkdtemp(prefix="cloudtune-secrets-"))
    try:
        spec = _spec(options, root, secrets)
        connection = connect(options.engine)
        try:
            return _run(connection, spec, root, asked)
        finally:
            connection.close()
    except CloudtuneError as error:
        (root / "output").mkdir(exist_ok=True)
        (root / "output" / "failure").write_text(f"{error.what}\n{error.hint}\n")
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shutil.rmtree(secrets, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloudtune.engine.foreground")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--network", choices=("none", "open"), default="none")
    parser.add_argument("--user")
    parser.add_argument("--gpus", action="store_true")
    parser.add_argument("--secret", action="append", default=[])
    return parser


def _spec(options: argparse.Namespace, root: Path, secrets: Path) -> ContainerSpec:
    spec = job_container("local", options.image, root, os.environ["CLOUDTUNE_LAUNCH_ID"], Limits(network=options.network))
    # A base model's folder is a link: it is mounted at its own path, where the link points to.
    linked = [path.resolve() for path in sorted((root / "input" / "data").iterdir()) if path.is_symlink() and path.is_dir()]
    spec = replace(spec, user=options.user, gpus=options.gpus, mounts=(*spec.mounts, *(Mount(place, str(place), True) for place in linked)))
    if cache := os.environ.get("CLOUDTUNE_CACHE"):
        spec = with_cache(spec, Path(cache))
    if options.secret:
        for name in options.secret:
            if name in os.environ:
                (secrets / name).write_text(os.environ[name])
        spec = with_secrets(spec, secrets)
    variables = {"CLOUDTUNE_LIFELINE": f"{ROOT}/{LIFELINE}"}
    if seconds := os.environ.get("CLOUDTUNE_LIFELINE_SECONDS"):
        variables["CLOUDTUNE_LIFELINE_SECONDS"] = seconds
    if options.user is None and os.getuid() != 0:
        variables["CLOUDTUNE_KEEP_USER"] = "1"  # a rootless engine: root in the container is you
    return replace(spec, env={**spec.env, **variables})


def _run(connection: Connection, spec: ContainerSpec, root: Path, asked: Asked) -> int:
    name = str(spec.name)
    there = containers.find(connection, name)
    if there is not None and not there.running:
        containers.remove(connection, name)
        there = None
    _touch(root)
    if there is None:
        containers.create(connection, spec)
        containers.start(connection, name)
    lines = threading.Thread(target=_print_lines, args=(connection.url, name), daemon=True)
    lines.start()
    while True:
        state = containers.find(connection, name)
        if state is None or not state.running:
            break
        if asked.to_stop and not asked.passed_on:
            containers.signal(connection, name)
            asked.passed_on = True
        _touch(root)
        time.sleep(TICK_SECONDS)
    lines.join(LAST_LINES_SECONDS)
    containers.remove(connection, name)
    return state.exit_code if state is not None and state.exit_code is not None else 1


def _touch(root: Path) -> None:
    with suppress(OSError):  # a full disk: the container then saves and ends
        (root / LIFELINE).touch()


def _print_lines(url: str, name: str) -> None:
    """The container's lines on our stdout, over a connection of their own: the other one is busy asking for the state."""
    connection = connect(url)
    try:
        for line in containers.follow(connection, name):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except CloudtuneError as error:
        sys.stderr.write(f"the log stream ended early: {error.what}\n")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
