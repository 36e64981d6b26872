"""The dry run itself: in a real container, as plain processes, with wrong data, and what each leaves unproved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cloudtune.engine.client import EngineError
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.show.dryrun import dry_run_lines
from cloudtune.show.text import Page
from cloudtune.verbs.dryrun import DryRun, Mode, dry_run
from tests.containers.conftest import Engine
from tests.containers.jobs import QUICKSTART, ROOT, plan_of

pytestmark = pytest.mark.stack
STEPS = [
    "image and contract",
    "data, tokenizer and masking",
    "training and checkpoint",
    "SIGTERM",
    "resume",
    "evaluation",
    "saving",
    "reloading",
]


def rehearse(plan: object, mode: Mode, tmp_path: Path) -> DryRun:
    with Session.open(Settings(home=tmp_path / "home", cache=tmp_path / "cache")) as session:
        return dry_run(plan, session=session, mode=mode)  # type: ignore[arg-type]


def chat_recipe(folder: Path, rows: bytes, **model: str) -> Path:
    (folder / "rows.jsonl").write_bytes(rows)
    body = {
        "version": 1,
        "name": "chats",
        "model": {"base": "Qwen/Qwen3-0.6B", **model},
        "method": {"type": "lora"},
        "data": {"train": [{"path": "./rows.jsonl"}], "max_length": 128, "packing": True},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(body))
    return path


def rows(count: int) -> bytes:
    made = [
        {"messages": [{"role": "user", "content": f"What is {n} plus one?"}, {"role": "assistant", "content": f"It is {n + 1}."}]}
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


@pytest.mark.engine
def test_in_a_container_under_the_sagemaker_contract(engine: Engine, trainer_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A real model's class, shrunk, on packed chats: everything is proved, and the user's folder is not touched."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    plan = plan_of(chat_recipe(tmp_path, rows(40)), "model.revision=main", provider=None)
    plan = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"provider": "aws"})})
    before = sorted(path.name for path in tmp_path.iterdir())
    run = rehearse(plan, "container", tmp_path)
    assert [proof.name for proof in run.proofs] == STEPS, run.proofs[-1]
    assert run.ok, (run.proofs[-1], run.log_tail)
    assert (run.mode, run.contract) == ("container", "sagemaker")
    assert run.examination.model_class == "Qwen3ForCausalLM"
    assert run.examination.packed_sequences < run.examination.kept_rows == 40
    assert any("stand-in" in text for text in run.unproved)
    assert not any("no container was run" in text for text in run.unproved)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("home", "cache")) == before


@pytest.mark.engine
def test_wrong_data_is_reported_with_the_users_own_path_and_nothing_is_trained(
    engine: Engine, trainer_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    broken = rows(4710) + b'{"messages": [\n' + rows(3)
    plan = plan_of(chat_recipe(tmp_path, broken), provider="local")
    run = rehearse(plan, "container", tmp_path)
    assert not run.ok
    assert [proof.ok for proof in run.proofs] == [True, False]
    assert any(text.startswith(f"{tmp_path / 'rows.jsonl'}:4711: not valid JSON") for text in run.defects), run.defects


def test_plain_processes_prove_the_same_steps_and_say_what_that_leaves_open(tmp_path: Path):
    run = rehearse(plan_of(QUICKSTART), "process", tmp_path)
    assert [proof.name for proof in run.proofs] == STEPS, run.proofs[-1]
    assert run.ok, (run.proofs[-1], run.log_tail)
    assert any("no container was run" in text for text in run.unproved)
    text = "\n".join(dry_run_lines(run, Page()))
    assert "«Return a list of all Thread objects currently alive.<|end|>»" in text
    assert "the job works" in text
    coloured = "\n".join(dry_run_lines(run, Page(width=100, colour=True)))
    assert "\x1b[32mReturn a list of all" in coloured
    json.dumps(asdict(run), default=lambda value: value.model_dump(mode="json"))


def test_asking_for_a_container_without_an_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match="no such file"):
        rehearse(plan_of(QUICKSTART), "container", tmp_path)


def test_the_command_ends_with_2_for_wrong_data(tmp_path: Path):
    silent = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": " "}]}
    recipe = chat_recipe(tmp_path, rows(3) + json.dumps(silent).encode() + b"\n")
    answer = subprocess.run(
        [sys.executable, "-m", "cloudtune", "launch", str(recipe), "--provider", "local", "--dry-run"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert "rows.jsonl:4: the answer is empty" in answer.stdout
