"""``cloudtune rehearse`` as a person runs it: the whole launch on a stand-in cloud, with the real trainer and the cloud's real client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import QUICKSTART, cloudtune, command_line, surroundings

STEPS = ["launch", "run and log", "interruption and resume", "cost", "collect", "load"]
SHORT = {"batch_size": 4, "micro_batch_size": 4}
# Many checkpoints: there is a middle in which the machine can be taken away.
RHYTHM = {
    "aws": {"max_steps": 150, "save_steps": 8, "eval_steps": 75},
    "gcp": {"max_steps": 24, "save_steps": 4, "eval_steps": 12},
}


def begin(provider: str, folder: Path) -> subprocess.Popen[str]:
    """A rehearsal of the quickstart under way."""
    settings = {f"training.{key}": value for key, value in {**SHORT, **RHYTHM[provider]}.items()} | {"data.eval": 0.02}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    folder.mkdir()
    return subprocess.Popen(
        command_line("rehearse", QUICKSTART, "--provider", provider, *sets, "--json"),
        cwd=folder,
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a rehearsal that worked says of itself, and its proofs."""
    out, err = process.communicate(timeout=1700)
    assert process.returncode == 0, f"{out}\n{err}"
    answer = json.loads(out)
    assert answer["ok"] is True
    run = answer["rehearsal"]
    assert all(proof["ok"] for proof in run["proofs"])
    return run, {proof["name"]: proof["detail"] for proof in run["proofs"]}


@pytest.mark.stack
@pytest.mark.timeout(1800)
def test_the_quickstart_is_rehearsed_on_both_clouds_from_upload_to_an_adapter_that_loads(tmp_path: Path):
    """Side by side, because half of a rehearsal is waiting; neither may notice the other."""
    with begin("aws", tmp_path / "aws") as aws, begin("gcp", tmp_path / "gcp") as gcp:
        run, proofs = finished(aws)
        assert list(proofs) == ["small job", *STEPS]
        assert "spot" in run["machine"]
        assert "code, job, train" in proofs["launch"]
        assert proofs["interruption and resume"].startswith("2 starts of one job")
        assert "resumed from step" in proofs["collect"]
        assert "evaluation loss" in proofs["load"]
        assert any("GPU" in line for line in run["unproved"])
        run, proofs = finished(gcp)
        assert list(proofs) == ["small job", *STEPS]
        assert "spot" in run["machine"]
        assert run["cloud"] == "Google Cloud"
        assert "gcp://cloudtune-standin.us-central1/" in proofs["launch"]
        assert "2 starts of one job" in proofs["interruption and resume"]
        assert "resumed from step" in proofs["collect"]
        assert any("/gcs is a folder" in line for line in run["unproved"])
    assert not list(tmp_path.glob("cloudtune-home/*"))  # neither ledger nor job of the user's own
    assert not list(tmp_path.glob("*/runs"))


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
