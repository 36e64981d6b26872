"""Sessions whose place ``aws`` is the real one, against the stand-in, with jobs that run the stand-in trainer. Not a test itself.

Request, upload, supervisor, log and results are the product's own; only the trainer's program is replaced in the code
channel, and its orders are for a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cloudtune.clock import Clock, SystemClock
from cloudtune.planning.plan import Plan
from cloudtune.providers.aws.place import connect
from cloudtune.providers.base import Staged, Stager
from cloudtune.rendering.bundle import Bundle
from cloudtune.session import Session
from cloudtune.standins.aws.account import Account, Durations
from cloudtune.standins.aws.cloud import AwsStandin
from tests import builders
from tests.unit.aws_builders import aws_plan

QUICK = Durations(starting=0.05, downloading=0.05, uploading=0.05, interrupted=0.1, capacity_retry=0.5)
_MAIN = """
import runpy, sys
from pathlib import Path
sys.argv = ["standin", *{options}]
runpy.run_path(str(Path(__file__).with_name("standin.py")), run_name="__main__")
"""


@dataclass(frozen=True)
class AwsSettings:
    """What a session at aws needs of the settings."""

    home: Path
    cache: Path
    aws_role: str
    aws_bucket: str = "auto"
    aws_region: str | None = None
    aws_profile: str | None = None


@dataclass(frozen=True)
class StandinStager:
    """The place's own stager, given the stand-in trainer instead of the real one."""

    inner: Stager
    options: tuple[str, ...]

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        trainer = "trainer/cloudtune_trainer"
        kept = {path: content for path, content in bundle.image.items() if not path.startswith(f"{trainer}/")}
        ours = {
            f"{trainer}/__init__.py": b"",
            f"{trainer}/__main__.py": _MAIN.format(options=json.dumps(list(self.options))).encode(),
            f"{trainer}/standin.py": builders.STANDIN.read_bytes(),
        }
        orders = json.loads(bundle.job["job.json"])
        orders.update(device="cpu", layout={**orders["layout"], "gpus": 0})
        return self.inner.stage(
            replace(bundle, image={**kept, **ours}, job={**bundle.job, "job.json": json.dumps(orders).encode()}), plan, progress
        )


def quick_account(**changes: object) -> Account:
    return Account(durations=QUICK, **changes)  # type: ignore[arg-type]


def aws_session(folder: Path, cloud: AwsStandin, options: Sequence[str] = (), clock: Clock | None = None, **settings: str) -> Session:
    """A session over ``<folder>/home``. The environment must be the stand-in's."""
    ours = AwsSettings(folder / "home", folder / "cache", **{"aws_role": cloud.role, **settings})
    clock = clock or SystemClock()
    place = connect(ours, clock)
    place.logs._settle_seconds = 1.0  # type: ignore[union-attr]  # the stand-in's log has no delay worth waiting eight seconds for
    place.jobs._least_seconds = 0.3  # type: ignore[attr-defined]  # nor its list of jobs calls to be sparing with
    place = replace(place, stager=StandinStager(place.stager, tuple(options)))
    return Session(ours, clock, places={"aws": place})  # type: ignore[arg-type]


def plan(folder: Path, **changes: object) -> Plan:
    """A plan for one GPU of SageMaker whose data lies in ``folder``."""
    return aws_plan(folder, **changes)
