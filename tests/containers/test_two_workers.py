"""More than one worker under the supervisor: torchrun starts them, SIGTERM reaches them, both save, and the job goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cloudtune.engine.runner import ProcessRunner
from cloudtune.rendering.contract import job_container
from tests.containers.jobs import ROOT
from tests.containers.test_defects import examine, good, lines

pytestmark = pytest.mark.stack


def test_torchrun_workers_save_on_sigterm_and_resume(tmp_path: Path):
    examine(tmp_path, lines(*[good(number) for number in range(40)]), {})
    folder = tmp_path / "job"
    place = folder / "input/data/job/job.json"
    job = json.loads(place.read_text())
    job["layout"] |= {"gpus": 2, "micro_batch_size": 1, "gradient_accumulation_steps": 1, "sharding": "ddp"}
    job["recipe"]["training"] |= {"max_steps": 160, "save_steps": 40, "eval_steps": 160}
    place.write_text(json.dumps(job))
    for part in ("model", "checkpoints"):
        (folder / part).mkdir(exist_ok=True)
    runner = ProcessRunner(folder, (ROOT / "containers/trainer", ROOT))
    spec = job_container("local", "", folder, "two-workers")
    saved = re.compile(r"^save · .*checkpoint step-", re.MULTILINE)
    first = runner.run(spec, seconds=200, watch=lambda log: bool(saved.search(log)))
    assert first.signalled
    assert first.exit_code == 75, first.log[-3000:]
    manifest = json.loads((folder / "model/manifest.json").read_text())
    assert manifest["outcome"] == "interrupted"
    second = runner.run(spec, seconds=200)
    assert second.exit_code == 0, second.log[-3000:]
    finished = json.loads((folder / "model/manifest.json").read_text())
    assert (finished["outcome"], finished["steps"], finished["resumed_from_step"]) == ("complete", 160, manifest["steps"])
