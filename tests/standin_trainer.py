"""A stand-in for the trainer: a real process that keeps its side of the contract without training anything.

    python standin_trainer.py [--steps 10] [--pause 0.02] [--starts FILE] [--fail-at N] [--die-at N] [--deaf] ...

It writes metrics.jsonl, checkpoints, artifacts and the manifest last; SIGTERM saves and ends with 75; a restart goes on
from the newest checkpoint. ``--starts FILE`` gets one line per start, so that a test can count trainers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    options = _options()
    root = Path(os.environ["CLOUDTUNE_ROOT"])
    launch_id = os.environ["CLOUDTUNE_LAUNCH_ID"]
    if options.starts:
        with Path(options.starts).open("a") as file:
            file.write(f"{launch_id} {os.getpid()}\n")
    ended: list[int] = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: ended.append(1))
    json.loads((root / "input/data/job/job.json").read_text())
    checkpoint = root / "checkpoints" / "step"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if first:
        print(f"resuming from step {first}", flush=True)
    for text in options.say:
        print(os.environ.get(text[1:], "?") if text.startswith("$") else text, flush=True)
    time.sleep(options.prepare)
    for step in range(first + 1, options.steps + 1):
        _metrics(root, phase="train", step=step, total_steps=options.steps, loss=2.0 / step if not options.nan else float("nan"))
        print(f"step {step} of {options.steps}", flush=True)
        if step == options.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == options.fail_at:
            (root / "output/failure").write_text("the data ran dry\ndetails follow\n")
            return 1
        time.sleep(options.pause)
        checkpoint.write_text(str(step))
        if ended:
            _finish(root, launch_id, "interrupted", step, options.steps)
            return 75
    if not options.no_manifest:
        _finish(root, launch_id, "complete", options.steps, options.steps)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--prepare", type=float, default=0.0)
    parser.add_argument("--starts")
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--nan", action="store_true")
    parser.add_argument("--no-manifest", action="store_true")
    parser.add_argument("--say", nargs="*", default=[])
    return parser.parse_args()


def _metrics(root: Path, **row: object) -> None:
    path = root / "output/data/metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"at": time.time(), **row}) + "\n")


def _finish(root: Path, launch_id: str, outcome: str, step: int, steps: int) -> None:
    files = {"adapter/adapter.safetensors": b"weights" * 1000, "adapter/adapter_config.json": b"{}", "empty.txt": b""}
    artifacts = []
    for path, content in files.items():
        place = root / "model" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        artifacts.append({"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {
        "outcome": outcome, "launch_id": launch_id, "recipe_name": "little", "method": "lora", "base_model": "builtin:quickstart",
        "steps": step, "total_steps": steps, "epochs": 1.0, "seconds": 1.0, "versions": {}, "artifacts": artifacts,
        "peak_memory": {"device": "cpu", "host_rss_bytes": 123456789}, "predicted_peak_bytes": 1 << 30,
    }  # fmt: skip
    (root / "model/manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    sys.exit(main())
