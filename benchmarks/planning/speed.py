"""How long ``plan`` takes for every shipped recipe over both clouds: processor time in this process, no caches kept between them.

    python benchmarks/planning/speed.py

The second column divides by how much slower a fixed piece of work is now than on a calm machine (tests/pace.py). The whole command
also starts an interpreter and imports (benchmarks/cli/startup.py); benchmarks/cli/plans.py times that beside a peer's.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

from cloudtune.clock import SystemClock  # noqa: E402
from cloudtune.memory.reckon import live_peak, reckon, tape_for  # noqa: E402
from cloudtune.session import Session  # noqa: E402
from cloudtune.settings import Settings  # noqa: E402
from cloudtune.verbs.plan import make_plan  # noqa: E402
from cloudtune.verbs.validate import validate  # noqa: E402
from tests.pace import slowness  # noqa: E402


def main() -> None:
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Settings(home=Path(folder), cache=Path(folder)), SystemClock())
        for path in sorted((ROOT / "recipes").glob("*.yaml")):
            for known in (reckon, tape_for, live_peak):
                known.cache_clear()
            pace = slowness()
            start = time.process_time()
            plan = make_plan(validate(path), session=session)
            seconds = time.process_time() - start
            total += seconds / pace
            chosen = f"{plan.chosen.instance} {plan.chosen.purchase}"
            print(f"{path.stem:26} {seconds:6.2f} s, on a calm core {seconds / pace:5.2f} s   {chosen}")
        print(f"{'all':26} {'':9} on a calm core {total:5.2f} s")


if __name__ == "__main__":
    main()
