"""``cloudtune rehearse`` as a person runs it: the whole launch on the stand-in AWS, with the real trainer and the real boto3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command import QUICKSTART, cloudtune

STEPS = ["launch", "run and log", "interruption and resume", "cost", "collect", "load"]
SHORT = [
    word
    for key, value in {"max_steps": 150, "save_steps": 8, "eval_steps": 75, "batch_size": 4, "micro_batch_size": 4}.items()
    for word in ("--set", f"training.{key}={value}")
]


@pytest.mark.stack
@pytest.mark.timeout(900)
def test_the_quickstart_is_rehearsed_from_upload_to_an_adapter_that_loads(tmp_path: Path):
    ran = cloudtune("rehearse", QUICKSTART, "--provider", "aws", *SHORT, "--set", "data.eval=0.02", "--json", folder=tmp_path, timeout=800)
    assert ran.code == 0, f"{ran.out}\n{ran.err}"
    run = ran.json["rehearsal"]
    proofs = {proof["name"]: proof["detail"] for proof in run["proofs"]}
    assert list(proofs) == ["small job", *STEPS]
    assert ran.json["ok"] is True
    assert "spot" in run["machine"]
    assert "code, job, train" in proofs["launch"]
    assert proofs["interruption and resume"].startswith("2 starts of one job")
    assert "resumed from step" in proofs["collect"]
    assert "evaluation loss" in proofs["load"]
    assert any("GPU" in line for line in run["unproved"])
    assert not list(tmp_path.glob("cloudtune-home/*"))  # neither ledger nor job of the user's own
    assert not (tmp_path / "runs").exists()


@pytest.mark.full
@pytest.mark.stack
@pytest.mark.timeout(900)
def test_another_model_is_shrunk_and_the_users_rows_are_sampled(tmp_path: Path):
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}]} for n in range(48)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nname: sums\nmodel: {base: Qwen/Qwen3-0.6B}\nmethod: {type: lora}\n"
        "data: {train: [{path: ./rows.jsonl, format: chat}], max_length: 128}\ntraining: {epochs: 1, batch_size: 4}\n"
    )
    ran = cloudtune("rehearse", "recipe.yaml", "--provider", "aws", "--json", folder=tmp_path, timeout=800)
    assert ran.code == 0, f"{ran.out}\n{ran.err}"
    proofs = {proof["name"]: proof["detail"] for proof in ran.json["rehearsal"]["proofs"]}
    assert list(proofs) == ["small job", *STEPS]
    assert "Qwen3ForCausalLM" in proofs["small job"]
    assert "model" in proofs["launch"]


def test_a_provider_without_a_stand_in_is_refused_at_once(tmp_path: Path):
    ran = cloudtune("rehearse", QUICKSTART, "--provider", "local", "--json", folder=tmp_path)
    assert ran.code == 2
    assert ran.json["error"]["code"] == "no-standin"
