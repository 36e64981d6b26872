"""``cloudtune rehearse --provider gcp`` as a user runs it: launch, log, preemption, resume, collect, and the adapter loads again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import QUICKSTART, cloudtune

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
# A checkpoint after each fourth of 24 steps: there is a middle in which the machine can be taken away.
SMALL = {
    "training.max_steps": 24,
    "training.save_steps": 4,
    "training.eval_steps": 12,
    "training.batch_size": 4,
    "training.micro_batch_size": 4,
    "data.eval": 0.02,
}


def test_a_rehearsal_on_google_cloud_ends_with_an_adapter_that_loads(tmp_path: Path) -> None:
    sets = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    ran = cloudtune("rehearse", QUICKSTART, "--provider", "gcp", *sets, "--json", folder=tmp_path, timeout=1700)
    assert ran.code == 0, f"{ran.out}\n{ran.err}"
    run = ran.json["rehearsal"]
    proofs = {proof["name"]: proof for proof in run["proofs"]}
    assert list(proofs) == ["small job", "launch", "run and log", "interruption and resume", "cost", "collect", "load"]
    assert all(proof["ok"] for proof in proofs.values())
    assert "gcp://cloudtune-standin.us-central1/" in proofs["launch"]["detail"]
    assert "2 starts of one job" in proofs["interruption and resume"]["detail"]
    assert "resumed from step" in proofs["collect"]["detail"]
    assert run["cloud"] == "Google Cloud"
    assert "spot" in run["machine"]
    assert any("/gcs is a folder" in line for line in run["unproved"])
