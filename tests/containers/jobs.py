"""Jobs for the container tests: the quickstart staged as a folder, and a stand-in trainer for what only the supervisor does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from cloudtune.recipe.load import load_file
from cloudtune.rendering.jobfile import local_inputs
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import make_plan
from cloudtune.verbs.render import render

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SHORT = tuple(
    f"{key}={value}"
    for key, value in {
        "training.max_steps": 12,
        "training.eval_steps": 6,
        "training.save_steps": 4,
        "training.batch_size": 4,
        "training.micro_batch_size": 4,
        "data.eval": 0.02,
    }.items()
)


def plan_of(recipe: Path = QUICKSTART, *overrides: str, provider: str | None = "local") -> Any:
    """The plan of a recipe with nothing of this machine's settings."""
    home = Path(os.environ["CLOUDTUNE_HOME"])
    with Session.open(Settings(home=home, cache=home / "cache")) as session:
        return make_plan(load_file(recipe, overrides), provider=provider, session=session)


def stage(plan: Any, folder: Path) -> Path:
    """The job's folder as the platforms lay it out, readable for any user of a container."""
    bundle = render(plan)
    data = folder / "input" / "data"
    for name in ("input/data/job", "model", "output/data", "checkpoints"):
        (folder / name).mkdir(parents=True)
    for name, content in bundle.job.items():
        (data / "job" / name).write_bytes(content)
    for item in local_inputs(plan):
        place = data / item.channel
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.source, place)
    open_up(folder)
    return folder


def open_up(folder: Path) -> None:
    """pytest's folders are for their owner alone; a container's user has to walk through the job's."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def bare_job(folder: Path, name: str, **recipe: Any) -> Path:
    """A job whose trainer is the stand-in below; ``name`` says what it shall do."""
    for part in ("input/data/job", "model", "output/data", "checkpoints"):
        (folder / part).mkdir(parents=True)
    layout = {"gpus": 0, "nodes": 1}
    device = recipe.pop("device", "cpu")
    job = {"contract": 1, "device": device, "layout": layout, "recipe": {"name": name, "secrets": {}, **recipe}}
    (folder / "input/data/job/job.json").write_text(json.dumps(job))
    open_up(folder)
    return folder


STAND_IN = b'''\
"""A trainer for tests of the supervisor alone: does what the job's name says."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

root = Path(os.environ["CLOUDTUNE_ROOT"])
what = json.loads((root / "input/data/job/job.json").read_text())["recipe"]["name"]
print("trainer:", what, "as", os.getuid(), flush=True)
if what.startswith("exit-"):
    sys.exit(int(what[5:]))
if what == "fails-with-words":
    (root / "output/failure").write_text("the data is wrong\\nline two\\n")
    sys.exit(1)
if what == "segfault":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "eats-memory":
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))
if what == "fills-disk":
    with (root / "model/big").open("wb") as stream:
        while True:
            stream.write(b"x" * (1 << 20))
if what == "waits":
    def leave(*_):
        (root / "checkpoints/step-00000001").mkdir()
        (root / "checkpoints/step-00000001/weights").write_text("w")
        (root / "checkpoints/step-00000001/COMPLETE").write_text("{}")
        (root / "model/manifest.json").write_text(json.dumps({"outcome": "interrupted"}))
        sys.exit(75)
    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
if what == "leaves-orphans":
    for _ in range(3):
        subprocess.Popen(["sh", "-c", "(sleep 0.2 &) ; exit 0"]).wait()
    time.sleep(0.6)
    zombies = [p for p in Path("/proc").glob("[0-9]*/stat") if p.read_text().rsplit(")", 1)[1].split()[0] == "Z"]
    print("zombies", len(zombies), flush=True)
if what == "shows-secret":
    print("token is", os.environ.get("HF_TOKEN"), flush=True)
    (root / "output/failure").write_text("refused: " + os.environ.get("HF_TOKEN", "") + "\\n")
    sys.exit(1)
if what == "sees-checkpoints":
    print("found", sorted(p.name for p in (root / "checkpoints").iterdir()), flush=True)
(root / "output/data/metrics.jsonl").write_text("{}\\n")
(root / "model/weights").write_text("trained")
(root / "model/manifest.json").write_text(json.dumps({"outcome": "complete"}))
'''
