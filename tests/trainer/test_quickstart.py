"""``builtin:quickstart``: built once, the same bytes each time, by one builder at a time."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from cloudtune.recipe.quickstart import QUICKSTART_CONFIG, QUICKSTART_RECIPE
from cloudtune_trainer.quickstart import build, ensure_quickstart, key
from cloudtune_trainer.report import Report
from cloudtune_trainer.surroundings import Interrupted, StopSign

pytestmark = pytest.mark.stack
SHORT = {**QUICKSTART_RECIPE, "steps": 3}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_built_twice_the_bytes_are_the_same_and_the_sizes_are_the_launcher_s(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = Report(tmp_path / "metrics.jsonl")
    build(tmp_path / "a", report, StopSign(), SHORT)
    build(tmp_path / "b", report, StopSign(), SHORT)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert {name: config[name] for name in QUICKSTART_CONFIG} == QUICKSTART_CONFIG
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "a"), AutoTokenizer.from_pretrained(tmp_path / "a")
    assert len(tokenizer) == model.config.vocab_size == QUICKSTART_CONFIG["vocab_size"]
    assert tokenizer.decode(tokenizer("Return a é中.").input_ids) == "Return a é中."
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert '"phase":"prepare"' in (tmp_path / "metrics.jsonl").read_text()


def test_two_jobs_at_once_build_it_once_and_a_killed_builder_s_leftovers_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "models" / f".quickstart-{key(SHORT)}-1"
    leftover.mkdir(parents=True)
    reports = [Report(tmp_path / f"{number}.jsonl") for number in range(3)]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda report=report: found.append(ensure_quickstart(tmp_path, report, StopSign(), SHORT)))
        for report in reports
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    said = [path.read_text() for path in tmp_path.glob("*.jsonl")]
    assert sum("building builtin:quickstart" in text for text in said) == 1
    assert not leftover.exists()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [found[0].name, f"{found[0].name}.lock"]


def test_the_key_changes_with_what_decides_the_bytes() -> None:
    assert key(SHORT) != key(QUICKSTART_RECIPE) == key()


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path: Path) -> None:
    stop = StopSign()
    stop.up = True
    with pytest.raises(Interrupted):
        ensure_quickstart(tmp_path, Report(tmp_path / "metrics.jsonl"), stop, SHORT)
    assert not (tmp_path / "models" / f"quickstart-{key(SHORT)}").exists()
