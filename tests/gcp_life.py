"""Sessions whose place ``gcp`` is the real one, against the stand-in, with jobs that run a trainer without training. Not a test itself.

Request, upload, image, supervisor, log and results are the product's own; only the trainer's program is replaced, by one
that lies first on the job's path, and its orders are for a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloudtune.clock import Clock, SystemClock
from cloudtune.planning.plan import Plan
from cloudtune.providers.base import Request, Staged, Stager
from cloudtune.providers.gcp.place import connect
from cloudtune.rendering.bundle import Bundle
from cloudtune.session import Session
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Pace, Scene
from tests.cloud_clock import HurriedClock

QUICK = Pace(queued=0.05, provisioning=0.1, all_up=0.1, error_late=1.0, preempted=0.3, retry=0.2, build=0.5, grace=10.0)

TRAINER = """
import hashlib, json, os, signal, sys, time
from pathlib import Path

root, steps, pause, fail_at = Path(os.environ["CLOUDTUNE_ROOT"]), {steps}, {pause}, {fail_at}
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
assert json.loads((root / "input/data/job/job.json").read_text())["recipe"]["name"]
assert next((root / "input/data").glob("train*/*")).read_text().startswith("{{")
print("inputs", *sorted(str(path.relative_to(root / "input/data")) for path in (root / "input/data").glob("*/*")), flush=True)
kept = sorted((root / "checkpoints").glob("step-*"))
first = int(kept[-1].name.partition("-")[2]) if kept else 0
print(f"starting after step {{first}}", flush=True)


def finish(outcome, step):
    files = {{"adapter/adapter.safetensors": b"weights" * 200_000, "adapter/adapter_config.json": b"{{}}", "empty.txt": b""}}
    artifacts = []
    for path, content in files.items():
        place = root / "model" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        artifacts.append({{"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}})
    manifest = {{
        "outcome": outcome, "launch_id": os.environ["CLOUDTUNE_LAUNCH_ID"], "recipe_name": "little", "method": "lora",
        "base_model": "builtin:quickstart", "steps": step, "total_steps": steps, "epochs": 1.0, "seconds": 1.0, "versions": {{}},
        "artifacts": artifacts, "peak_memory": {{"device": "cpu", "host_rss_bytes": 1}}, "predicted_peak_bytes": 1,
        "resumed_from_step": first or None,
    }}
    (root / "model/manifest.json").write_text(json.dumps(manifest))


for step in range(first + 1, steps + 1):
    with (root / "output/data/metrics.jsonl").open("a") as file:
        file.write(json.dumps({{"at": time.time(), "phase": "train", "step": step, "total_steps": steps, "loss": 2.0 / step}}) + "\\n")
    print(f"step {{step}} of {{steps}}", flush=True)
    if step == fail_at:
        (root / "output/failure").write_text("the data ran dry\\ndetails follow\\n")
        sys.exit(1)
    time.sleep(pause)
    place = root / "checkpoints" / f"step-{{step:04d}}"
    place.mkdir()
    (place / "weights").write_text(str(step))
    (place / "COMPLETE").touch()
    if asked:
        finish("interrupted", step)
        sys.exit(75)
finish("complete", steps)
"""


@dataclass(frozen=True)
class GcpSettings:
    """What a session at gcp needs of the settings."""

    home: Path
    cache: Path
    gcp_endpoint: str
    gcp_project: str | None
    gcp_bucket: str | None
    gcp_region: str | None
    gcp_service_account: str | None
    gcp_repository: str | None = None
    gcp_image: str | None = None
    aws_profile: str | None = None
    aws_region: str | None = None


@dataclass(frozen=True)
class CpuStager:
    """The place's own stager, with orders for a CPU: the stand-in's machines have no GPU."""

    inner: Stager

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        orders = json.loads(bundle.job["job.json"])
        orders.update(device="cpu", layout={**orders["layout"], "gpus": 0})
        return self.inner.stage(replace(bundle, job={**bundle.job, "job.json": json.dumps(orders).encode()}), plan, progress)


def quick_scene(**changes: Any) -> Scene:
    return Scene(pace=replace(QUICK, **changes.pop("pace", {})), **changes)


def write_trainer(folder: Path, *, steps: int = 5, pause: float = 0.02, fail_at: int = 0) -> Path:
    """A folder that makes ``python -m cloudtune_trainer`` this trainer when it is first on the path."""
    package = folder / "fake" / "cloudtune_trainer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRAINER.format(steps=steps, pause=pause, fail_at=fail_at))
    return package.parent


def gcp_settings(folder: Path, cloud: GcpStandin, *, grpc: bool = False, **changes: Any) -> GcpSettings:
    scene = cloud.scene
    values = {
        "gcp_endpoint": cloud.grpc_url if grpc else cloud.url, "gcp_project": scene.project, "gcp_bucket": scene.bucket,
        "gcp_region": scene.region, "gcp_service_account": scene.service_account,
        "gcp_repository": f"{scene.region}-docker.pkg.dev/{scene.project}/{scene.repository}",
    }  # fmt: skip
    return GcpSettings(folder / "home", folder / "cache", **{**values, **changes})


def gcp_session(
    folder: Path,
    cloud: GcpStandin,
    clock: Clock | None = None,
    *,
    trainer: Path | None = None,
    grpc: bool = False,
    mirror_seconds: float | None = None,
) -> Session:
    """A session over ``<folder>/home``. The environment must be the stand-in's.

    ``trainer``: what stands in for the trainer; ``mirror_seconds``: how often the real one's results are copied.
    """
    settings = gcp_settings(folder, cloud, grpc=grpc)
    clock = clock or SystemClock()
    place = connect(settings, clock)
    place.logs._settle_seconds = 3.0  # type: ignore[union-attr]  # the stand-in's log is never later than that
    stager = connect(settings, HurriedClock()).stager  # the stand-in's builds are over in half a second; it is asked every five
    place = replace(place, stager=CpuStager(stager), build_request=_with_trainer(place.build_request, trainer, mirror_seconds))
    return Session(settings, clock, places={"gcp": place})  # type: ignore[arg-type]


def _with_trainer(build: Callable[..., Request], trainer: Path | None, mirror_seconds: float | None) -> Callable[..., Request]:
    seconds = mirror_seconds if mirror_seconds is not None else 0.3 if trainer else None
    path = f'PYTHONPATH="{trainer}:$PYTHONPATH" ' if trainer else ""

    def build_request(plan: Plan, staged: Staged, launch_id: Any) -> Request:
        request = build(plan, staged, launch_id)
        body = json.loads(json.dumps(request.body))
        for pool in body["customJob"]["jobSpec"]["workerPoolSpecs"] if seconds is not None else ():
            pool["containerSpec"]["command"] = [
                "sh",
                "-c",
                f"CLOUDTUNE_MIRROR_SECONDS={seconds} {path}exec python3 -m cloudtune_entry train",
            ]
            pool["containerSpec"].pop("args", None)
        return replace(request, body=body)

    return build_request
