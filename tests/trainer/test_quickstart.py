"""``builtin:quickstart``: built once, the same bytes each time, by one builder at a time."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert key({**QUICKSTART_RECIPE, "matrix_precision": "bfloat16"}) != key()


def test_our_muon_takes_the_steps_of_torch_s_own() -> None:
    """To the bit in torch's bfloat16; in our float32 as near as bfloat16 can tell: 0.6 to 0.8 % were measured."""
    import torch

    from cloudtune_trainer.muon import Muon

    theirs = walked(lambda matrices: torch.optim.Muon(matrices, lr=1.0, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    same = walked(lambda matrices: Muon(matrices, lr=1.0, momentum=0.95, precision=torch.bfloat16))
    ours = walked(lambda matrices: Muon(matrices, lr=1.0, momentum=0.95, precision=torch.float32))
    for their_way, same_way, our_way in zip(theirs, same, ours, strict=True):
        assert their_way.norm() > 0.05
        assert torch.equal(their_way, same_way)
        assert not torch.equal(their_way, our_way)
        assert (our_way - their_way).norm() < 0.02 * their_way.norm()


def walked(optimizer_over: Callable[[list[Any]], Any]) -> list[Any]:
    """How far six steps of differing rates took a wide, a square and a tall matrix, and one without a gradient in the first step."""
    import torch

    dice = torch.Generator().manual_seed(7)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=dice)) for shape in [(64, 128), (128, 128), (384, 128), (64, 64)]]
    begun = [matrix.detach().clone() for matrix in matrices]
    optimizer = optimizer_over(matrices)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        for matrix in matrices[: 3 if step == 0 else 4]:
            steep = torch.logspace(0, -2, matrix.shape[1])  # singular values far apart, as real gradients have them
            matrix.grad = torch.randn(matrix.shape, generator=dice) * steep
        optimizer.step()
        optimizer.zero_grad()
    return [matrix.detach() - start for matrix, start in zip(matrices, begun, strict=True)]


@pytest.mark.parametrize("shape", [(96, 192), (64, 384), (384, 64)])
def test_orthogonalised_has_singular_values_near_one_along_the_same_directions(shape: tuple[int, int]) -> None:
    import torch

    from cloudtune_trainer.muon import orthogonalised

    steep = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.logspace(0, -1, shape[1])
    left, _, right = torch.linalg.svd(steep, full_matrices=False)
    within = left.T @ orthogonalised(steep, torch.float32) @ right.T
    assert within.diagonal().min() > 0.6
    assert within.diagonal().max() < 1.3
    assert (within - within.diagonal().diag()).abs().max() < 1e-3
    assert orthogonalised(torch.zeros(shape), torch.float32).abs().max() == 0


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path: Path) -> None:
    stop = StopSign()
    stop.up = True
    with pytest.raises(Interrupted):
        ensure_quickstart(tmp_path, Report(tmp_path / "metrics.jsonl"), stop, SHORT)
    assert not (tmp_path / "models" / f"quickstart-{key(SHORT)}").exists()
