"""How long images and dry runs take: cold build, nothing to do, after a trainer change, dry run of the quickstart.

    .venv/bin/python -m benchmarks.containers.builds [--json]

Root, on Debian: starts the private engine of the tests (tests/engine) in a folder of its own and removes it at the end.
Each line says what was measured: wall seconds, with the load average that says how far to trust them, and CPU seconds of this
program, its children, the engine's daemons and the containers, which a busy machine changes little.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
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
from cloudtune.verbs.render import image_context, render
from tests.engine import private

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def cpu_seconds(engine: private.PrivateEngine) -> float:
    """CPU time that was spent up to now: by this program and its ended children, the daemons, and all containers of the machine."""
    times = os.times()
    daemons = sum(map(of_process, numbers_of(engine.folder)))
    return times.user + times.system + times.children_user + times.children_system + daemons + of_containers()


def numbers_of(folder: Path) -> list[int]:
    """The processes that have the engine's folder on their command line: dockerd and containerd."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = place.read_bytes()
            if str(folder).encode() in words and words.split(b"\0")[0].rpartition(b"/")[2] in (b"dockerd", b"containerd"):
                found.append(int(place.parent.name))
    return found


def of_process(number: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def of_containers() -> float:
    """The accounts of the cgroup that dockerd puts containers in: version 1 in ns, version 2 in us; ended ones stay counted."""
    old, new = Path("/sys/fs/cgroup/cpuacct/docker/cpuacct.usage"), Path("/sys/fs/cgroup/docker/cpu.stat")
    if old.exists():
        return int(old.read_text()) / 1e9
    return int(new.read_text().split()[1]) / 1e6 if new.exists() else 0.0


def measured(name: str, engine: private.PrivateEngine, work: Callable[[], object]) -> dict[str, object]:
    """Wall and CPU seconds of ``work``, and the load average when it ended."""
    began, spent = time.monotonic(), cpu_seconds(engine)
    found = work()
    seconds, cpu = round(time.monotonic() - began, 2), round(max(0.0, cpu_seconds(engine) - spent), 2)
    row = {"name": name, "seconds": seconds, "cpu_seconds": cpu, "load": round(os.getloadavg()[0], 1), "found": str(found)}
    sys.stderr.write(f"{name:38} {seconds:8.2f} s   {cpu:8.2f} CPU s   load {row['load']}   {row['found']}\n")
    return row


def build(connection: Connection, context: dict[str, bytes]) -> str:
    """Find or build, as a launch does; says which."""
    said: list[str] = []
    ensure_image(EngineBuilder(connection), image_name(context, "cpu"), context, said.append)
    return "found" if "already" in said[0] else f"built, {len(said)} lines"


def changed_recipe() -> dict[str, bytes]:
    """The build context of another recipe, as a launch renders it."""
    with tempfile.TemporaryDirectory() as folder, Session.open(Settings(home=Path(folder), cache=Path(folder))) as session:
        return dict(render(make_plan(load_file(QUICKSTART, ["training.max_steps=7"]), provider="local", session=session)).image)


def rehearse(connection: Connection, folder: Path, mode: str) -> str:
    """The quickstart's dry run; says how many steps were proved."""
    os.environ["DOCKER_HOST"] = connection.url
    with Session.open(Settings(home=folder, cache=folder / "cache")) as session:
        run = dry_run(make_plan(load_file(QUICKSTART), provider="local", session=session), session=session, mode=mode)  # type: ignore[arg-type]
    return f"{sum(proof.ok for proof in run.proofs)} of {len(run.proofs)} proved"


def main() -> None:
    """Measure everything once."""
    engine = private.PrivateEngine(Path("/tmp/ct-bench"))  # noqa: S108 - socket paths must be short
    rows = [measured("engine and base image from nothing", engine, lambda: private.up(engine))]
    connection = connect(engine.url)
    try:
        context = image_context("cpu", __version__)
        changed = {**context, "trainer/cloudtune_trainer/train.py": context["trainer/cloudtune_trainer/train.py"] + b"\n# changed\n"}
        rows.append(measured("cold build of the cpu image", engine, lambda: build(connection, context)))
        rows.append(measured("after a recipe change", engine, lambda: build(connection, changed_recipe())))
        rows.append(measured("after a trainer change", engine, lambda: build(connection, changed)))
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured("dry run of the quickstart, container", engine, lambda: rehearse(connection, Path(folder), "container")))
            rows.append(measured("dry run of the quickstart, processes", engine, lambda: rehearse(connection, Path(folder), "process")))
    finally:
        connection.close()
        rows.append(measured("engine down, nothing left", engine, lambda: private.down(engine)))
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
