"""Every method trains every format and leaves a manifest whose every file is there, with the digest it says."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainer_jobs import FP4, FULL, INT8, LORA, NF4, ROWS, Root, job_file

pytestmark = pytest.mark.stack


def check(root: Root, outcome: str = "complete") -> None:
    manifest = root.manifest
    assert manifest.outcome == outcome
    assert manifest.peak_memory.host_rss_bytes
    assert manifest.trainable_parameters > 0
    for artifact in manifest.artifacts:
        content = (root.paths.model / artifact.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (artifact.bytes, artifact.sha256), artifact.path
    named = {artifact.path for artifact in manifest.artifacts} | {"manifest.json"}
    assert named == {path.relative_to(root.paths.model).as_posix() for path in root.paths.model.rglob("*") if path.is_file()}
    assert root.metrics[-1].phase == "done"


METHODS = {"full": FULL, "lora": LORA, "nf4": NF4, "fp4": FP4, "int8": INT8}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows_format", ["instruction", "chat", "completion", "text"])
def test_method_learns_format(root: Any, method: str, rows_format: str) -> None:
    made = root(job_file(rows_format, method=METHODS[method], training={"save_steps": 100, "eval_steps": 100}))
    assert made.train() == "complete"
    check(made)
    assert made.manifest.eval_loss_before is not None
    assert made.manifest.eval_loss_after is not None
    assert made.manifest.eval_loss_after < made.manifest.eval_loss_before
    assert made.manifest.steps == made.manifest.total_steps == 6


@pytest.mark.parametrize("method", ["full", "lora", "nf4"])
def test_masked_lm(root: Any, encoder: Any, method: str) -> None:
    made = root(job_file("text", task="masked_lm", method=METHODS[method], training={"max_steps": 12}), base=encoder)
    assert made.train() == "complete"
    check(made)
    assert made.manifest.eval_loss_after < made.manifest.eval_loss_before


@pytest.mark.parametrize(
    "change",
    [
        {"method": {**LORA, "use_dora": True}},
        {"method": {**NF4, "use_dora": True}},
        {"method": {**LORA, "use_rslora": True, "dropout": 0.1}},
        {"method": {**LORA, "init": "olora"}},
        {"method": {**LORA, "init": "pissa"}},
        {"method": {**LORA, "target_modules": "attention"}},
        {"method": {**LORA, "target_modules": ["q_proj", "v_proj"]}},
        {"method": {**LORA, "trainable_tokens": [3, 4]}},
        {"method": {**INT8}, "training": {"gradient_checkpointing": True}},
        {"method": {**NF4}, "training": {"gradient_checkpointing": True}},
        {"training": {"optimizer": "adamw_8bit"}},
        {"training": {"optimizer": "paged_adamw_8bit"}},
        {"training": {"optimizer": "paged_adamw_32bit"}},
        {"training": {"optimizer": "lion_8bit", "learning_rate": 1e-3}},
        {"training": {"optimizer": "adafactor"}},
        {"training": {"optimizer": "sgd", "learning_rate": 1.0}},
        {"training": {"optimizer": "adamw_torch", "neftune_noise_alpha": 5.0, "weight_decay": 0.1}},
        {"method": FULL, "training": {"optimizer": "adamw_8bit", "gradient_checkpointing": True}},
        {"training": {"fused_loss": True}, "data": {"packing": True}},
        {"data": {"eval": None}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_settings(root: Any, change: dict[str, Any]) -> None:
    made = root(job_file(**change))
    assert made.train() == "complete"
    check(made)
    before, after = made.manifest.eval_loss_before, made.manifest.eval_loss_after
    assert (before is None and after is None) or after < before


def test_adapter_config_names_the_base_and_is_sorted(root: Any, base: Any) -> None:
    made = root(job_file())
    made.train()
    config = json.loads((made.paths.model / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert "lm_head" not in config["target_modules"]
    generation = json.loads((made.paths.model / "adapter" / "generation_config.json").read_text())
    assert generation["eos_token_id"]


def test_attention_targets_are_the_attention_s_linears(root: Any, encoder: Any) -> None:
    job = job_file("text", task="masked_lm", method={**LORA, "target_modules": "attention"}, training={"max_steps": 1})
    made = root(job, base=encoder)
    made.train()
    config = json.loads((made.paths.model / "adapter" / "adapter_config.json").read_text())
    assert {"query", "key", "value"} < set(config["target_modules"])
    assert "dense" not in config["target_modules"]  # BERT's feed-forward has modules of that name too
    assert sum("attention.output.dense" in name for name in config["target_modules"]) == 2


@pytest.mark.parametrize(("epochs", "steps"), [(0.4, 2), (1.0, 3), (None, 9)])
def test_epochs_become_steps_the_last_one_filled_up(root: Any, epochs: float | None, steps: int) -> None:
    """24 rows in steps of 8; three passes where nothing is said."""
    made = root(job_file(training={"max_steps": None, "epochs": epochs}, data={"eval": None}))
    assert made.train() == "complete"
    assert made.manifest.steps == made.manifest.total_steps == steps
    assert made.manifest.epochs == pytest.approx(steps * 8 / 24, abs=1e-4)


def losses_without_learning(made: Root) -> list[float]:
    """The loss of the first and the last step of a run that hardly moves its weights, over rows that are all alike."""
    made.train()
    return [row.loss for row in made.metrics if row.loss is not None]


def test_noise_is_another_one_in_every_step(root: Any) -> None:
    settings = {"max_steps": 2, "learning_rate": 1e-12}
    alike = {"rows": ROWS["instruction"][:1] * 8}
    calm = root(job_file(training=settings, data={"eval": None}), **alike)
    first, last = losses_without_learning(calm)
    assert first == pytest.approx(last, abs=1e-5)
    norms = [row.grad_norm for row in calm.metrics if row.grad_norm is not None]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)  # no step adds the gradient of the one before to its own
    noisy = root(job_file(training={**settings, "neftune_noise_alpha": 5.0}, data={"eval": None}), **alike)
    first, last = losses_without_learning(noisy)
    assert first != pytest.approx(last, abs=1e-4)


def test_other_tokens_are_hidden_in_every_step(root: Any, encoder: Path, tmp_path: Path) -> None:
    sober = tmp_path / "sober"
    shutil.copytree(encoder, sober)
    config = json.loads((sober / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # what is left to chance is what is hidden
    (sober / "config.json").write_text(json.dumps(config))
    job = job_file("text", task="masked_lm", training={"max_steps": 2, "learning_rate": 1e-12}, data={"eval": None})
    first, last = losses_without_learning(root(job, rows=ROWS["text"][1:2] * 8, base=sober))
    assert first != pytest.approx(last, abs=1e-4)


def test_the_schedule_s_rate_is_the_one_that_learns(root: Any) -> None:
    once = root(job_file(training={"max_steps": 1, "lr_scheduler": "linear"}))
    once.train()
    assert [row.learning_rate for row in once.metrics if row.learning_rate is not None] == [5e-3]
    assert once.manifest.eval_loss_after < once.manifest.eval_loss_before - 1e-4
    assert once.manifest.train_loss == pytest.approx(next(row.loss for row in once.metrics if row.loss is not None), abs=1e-5)
    ways = [{}, {"lr_scheduler": "linear"}, {"weight_decay": 0.5}, {"optimizer": "sgd"}, {"optimizer": "sgd", "max_grad_norm": 1e-3}]
    made = [root(job_file(training={"max_steps": 3, "lr_scheduler": "constant", **way}, data={"eval": None})) for way in ways]
    for one in made:
        one.train()
    assert len({one.weights for one in made}) == len(ways)


def test_only_matrices_decay() -> None:
    from torch import nn

    from cloudtune.recipe.spec import TrainingSpec
    from cloudtune_trainer.optimizers import make_optimizer

    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    groups = make_optimizer(model, TrainingSpec(learning_rate=1e-3, weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], sorted({weight.ndim for weight in group["params"]})) for group in groups] == [(0.1, [2]), (0.0, [1])]


def test_the_adapter_is_the_one_of_the_recipe(root: Any) -> None:
    method = {**LORA, "r": 4, "alpha": 24, "dropout": 0.25, "use_dora": True, "use_rslora": True}
    made = root(job_file(method=method, training={"max_steps": 1}, data={"eval": None}))
    made.train()
    config = json.loads((made.paths.model / "adapter" / "adapter_config.json").read_text())
    said = [config[name] for name in ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora")]
    assert said == [4, 24, 0.25, True, True]


def test_answers_end_where_the_recipe_says_they_end(root: Any) -> None:
    """Whoever loads the folder generates until one of these; without the end of a turn it would never stop."""
    from transformers import AutoTokenizer

    data = {"special_tokens": {"eos": "<|im_end|>", "end_of_turn": "<|eot_id|>"}, "eval": None}
    made = root(job_file("chat", data=data, training={"max_steps": 1}, output={"merge": True}))
    made.train()
    tokenizer = AutoTokenizer.from_pretrained(made.paths.model / "adapter")
    ends = sorted(tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>", "<|eot_id|>"]))
    for folder in ("adapter", "merged"):
        assert json.loads((made.paths.model / folder / "generation_config.json").read_text())["eos_token_id"] == ends
    assert json.loads((made.paths.model / "merged" / "config.json").read_text()).get("use_cache", True) is True
