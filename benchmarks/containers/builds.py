"""How long images and dry runs take: cold build, nothing to do, after a trainer change, dry run of the quickstart.

    .venv/bin/python -m benchmarks.containers.builds [--json]

Root, on Debian: starts the private engine of the tests (tests/engine) in a folder of its own and removes it at the end.
Each line says what was measured; the load average beside it says how far to trust it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloudtune import __version__
from cloudtune.engine.builder import EngineBuilder
from cloudtune.engine.client import Connection, connect
from cloudtune.recipe.load import load_file
from cloudtune.rendering.image import ensure_image, image_name
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.dryrun import dry_run
from cloudtune.verbs.plan import make_plan
from cloudtune.verbs.render import image_context
from tests.engine import private

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def measured(name: str, work: Callable[[], object]) -> dict[str, object]:
    """Seconds of ``work``, and the load average when it ended."""
    began = time.monotonic()
    found = work()
    seconds = round(time.monotonic() - began, 2)
    row = {"name": name, "seconds": seconds, "load": round(os.getloadavg()[0], 1), "found": str(found)}
    sys.stderr.write(f"{name:38} {seconds:8.2f} s   load {row['load']}   {row['found']}\n")
    return row


def build(connection: Connection, context: dict[str, bytes]) -> str:
    """Find or build, as a launch does; says which."""
    said: list[str] = []
    ensure_image(EngineBuilder(connection), image_name(context, "cpu"), context, said.append)
    return "found" if "already" in said[0] else f"built, {len(said)} lines"


def rehearse(connection: Connection, folder: Path, mode: str) -> str:
    """The quickstart's dry run; says how many steps were proved."""
    os.environ["DOCKER_HOST"] = connection.url
    with Session.open(Settings(home=folder, cache=folder / "cache")) as session:
        run = dry_run(make_plan(load_file(QUICKSTART), provider="local", session=session), session=session, mode=mode)  # type: ignore[arg-type]
    return f"{sum(proof.ok for proof in run.proofs)} of {len(run.proofs)} proved"


def main() -> None:
    """Measure everything once."""
    engine = private.PrivateEngine(Path("/tmp/ct-bench"))  # noqa: S108 - socket paths must be short
    rows = [measured("engine and base image from nothing", lambda: private.up(engine))]
    connection = connect(engine.url)
    try:
        context = image_context("cpu", __version__)
        changed = {**context, "trainer/cloudtune_trainer/train.py": context["trainer/cloudtune_trainer/train.py"] + b"\n# changed\n"}
        rows.append(measured("cold build of the cpu image", lambda: build(connection, context)))
        rows.append(measured("after a recipe change", lambda: build(connection, image_context("cpu", __version__))))
        rows.append(measured("after a trainer change", lambda: build(connection, changed)))
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured("dry run of the quickstart, container", lambda: rehearse(connection, Path(folder), "container")))
            rows.append(measured("dry run of the quickstart, processes", lambda: rehearse(connection, Path(folder), "process")))
    finally:
        connection.close()
        rows.append(measured("engine down, nothing left", lambda: private.down(engine)))
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
