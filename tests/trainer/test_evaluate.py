"""A collected result, loaded in another process, has the manifest's loss; so has a program that knows nothing of ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_jobs import FULL, INT8, LORA, NF4, job_file

from cloudtune.errors import JobFailed

pytestmark = pytest.mark.stack

DOCS = Path(__file__).parents[2] / "docs" / "trainer.md"


@pytest.mark.parametrize(
    "method",
    [
        *(LORA, NF4, INT8, FULL, {**LORA, "init": "pissa"}, {**LORA, "init": "olora"}, {**NF4, "use_dora": True}),
        *({**LORA, "trainable_tokens": [3, 4]}, {**LORA, "modules_to_save": ["norm"]}),
    ],
    ids=lambda method: json.dumps(method)[9:70],
)
def test_evaluate_reproduces_the_manifest(root: Any, method: dict[str, Any]) -> None:
    from cloudtune_trainer.evaluate import evaluate

    made = root(job_file(method=method))
    made.train()
    result = evaluate(made.paths.model)
    assert result.difference is not None
    assert result.difference < 1e-6
    if method is not FULL:
        assert result.base_loss == pytest.approx(made.manifest.eval_loss_before, abs=1e-4)
        assert result.base_loss - result.eval_loss > 0.1


def test_nothing_is_left_to_chance_in_an_evaluation(root: Any) -> None:
    """Dropout and noise belong to training; the loss of the manifest is the one that whoever loads the result sees."""
    from cloudtune_trainer.evaluate import evaluate

    made = root(job_file(method={**LORA, "dropout": 0.5}, training={"neftune_noise_alpha": 20.0}))
    made.train()
    assert evaluate(made.paths.model).difference < 1e-6


def test_evaluate_reproduces_an_encoder_s_loss(root: Any, encoder: Any) -> None:
    from cloudtune_trainer.evaluate import evaluate

    made = root(job_file("text", task="masked_lm"), base=encoder)
    made.train()
    assert evaluate(made.paths.model).difference < 1e-6


def test_evaluate_makes_the_held_out_rows_anew_from_the_original_file(root: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from cloudtune_trainer.evaluate import main

    made = root(job_file())
    made.train()
    (made.paths.model / "eval_set.jsonl").unlink()
    capsys.readouterr()
    assert main([str(made.paths.model), "--json", "--data", str(made.paths.inputs / made.job.train[0].path)]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] < 1e-6
    other = made.paths.root / "other.jsonl"
    other.write_text('{"instruction": "a", "output": "b"}\n')
    assert main([str(made.paths.model), "--data", str(other)]) == 1
    assert "not what was planned" in capsys.readouterr().err


def test_the_program_in_the_documentation_reproduces_the_loss(root: Any, tmp_path: Path) -> None:
    made = root(job_file(method=NF4))
    made.train()
    program = re.search(r"<!-- test:reproduce -->\n```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert program is not None
    script = tmp_path / "reproduce.py"
    script.write_text(program.group(1))
    done = subprocess.run([sys.executable, str(script), str(made.paths.model)], capture_output=True, text=True, check=True, cwd=tmp_path)
    theirs, ours = map(float, done.stdout.split())
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert ours == made.manifest.eval_loss_after


@pytest.mark.parametrize("method", [LORA, NF4, INT8, {**LORA, "use_dora": True}], ids=lambda method: json.dumps(method)[9:70])
def test_the_merged_model_is_the_adapter_s(root: Any, method: dict[str, Any]) -> None:
    from cloudtune_trainer.artifacts import read_eval_set
    from cloudtune_trainer.evaluate import loss_of
    from cloudtune_trainer.model import Base, load_base

    made = root(job_file(method=method, output={"merge": True}))
    made.train()
    home = made.paths.model / "merged"
    assert "quantization_config" not in json.loads((home / "config.json").read_text())
    plain = made.job.model_copy(update={"recipe": made.job.recipe.model_copy(update={"method": job_file(method=FULL).recipe.method})})
    cpu = torch.device("cpu")
    merged = load_base(plain, Base(str(home), None), cpu)
    loss = loss_of(plain, merged, read_eval_set(made.paths.model / "eval_set.jsonl"), cpu)
    assert loss == pytest.approx(made.manifest.eval_loss_after, abs=2e-3)
    assert any("logits differ" in row.message for row in made.metrics)


def test_a_merged_model_that_is_another_one_is_refused(base: Path) -> None:
    from cloudtune_trainer.batches import causal_batch
    from cloudtune_trainer.merge import merge_error, probe
    from cloudtune_trainer.model import Base, load_base
    from cloudtune_trainer.tokens import Sequence

    job, cpu = job_file(), torch.device("cpu")
    ids = np.arange(10, 30, dtype=np.int32)
    batch = causal_batch([(Sequence(ids, ids, 0),)], 0, cpu)
    reference = probe(job, load_base(job, Base(str(base), None), cpu), batch)
    assert merge_error(job, base, batch, reference) < 1e-6
    reference[0, 3, 7] += 0.05 * reference.std()
    with pytest.raises(JobFailed, match="differs from the adapter"):
        merge_error(job, base, batch, reference)
