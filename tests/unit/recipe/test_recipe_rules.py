"""Impossible combinations: each is found on the raw values, by the loader and (where it holds for any recipe) by Recipe itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from cloudtune.recipe import rules
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import Recipe

PLAIN: dict[str, Any] = {
    "version": 1,
    "name": "rules",
    "model": {"base": "x/y"},
    "method": {"type": "qlora"},
    "data": {"train": [{"path": "./a.jsonl"}]},
}


def recipe(**sections: Any) -> dict[str, Any]:
    """PLAIN with the given sections laid over it, one level deep."""
    body = copy.deepcopy(PLAIN)
    for name, value in sections.items():
        body[name] = {**body.get(name, {}), **value} if isinstance(value, dict) and value.get("type") is None else value
    return body


def rows(form: str, **more: Any) -> dict[str, Any]:
    return {"train": [{"path": "./a.jsonl", "format": form}], **more}


IN_ANY_RECIPE = [
    (recipe(training={"epochs": 1, "max_steps": 5}), "training.max_steps", "epochs and max_steps"),
    (recipe(training={"warmup_ratio": 0.1, "warmup_steps": 5}), "training.warmup_steps", "warmup_ratio and warmup_steps"),
    (recipe(training={"warmup_steps": 50, "max_steps": 5}), "training.warmup_steps", "more than the 5 steps"),
    (recipe(training={"batch_size": 10, "micro_batch_size": 4}), "training.micro_batch_size", "batch_size: 8"),
    (recipe(training={"batch_size": 11, "micro_batch_size": 4}), "training.micro_batch_size", "batch_size: 12"),
    (recipe(training={"micro_batch_size": 32}), "training.micro_batch_size", "micro_batch_size: 16 or less"),
    (recipe(method={"type": "qlora", "init": "pissa"}), "method.init", "quantised"),
    (recipe(method={"type": "qlora", "init": "olora"}), "method.init", "type: lora"),
    (recipe(method={"type": "lora", "target_parameters": ["w"], "dropout": 0.1}), "method.dropout", "dropout: 0"),
    (recipe(method={"type": "lora", "target_parameters": ["w"], "init": "pissa"}), "method.init", "target_parameters"),
    (recipe(task="masked_lm"), "data.train[0]", "format: text"),
    (recipe(task="masked_lm", data=rows("completion")), "data.train[0].format", "not from completion rows"),
    (recipe(task="masked_lm", data=rows("text", packing=True)), "data.packing", "cannot pack"),
    (recipe(task="masked_lm", data=rows("text"), training={"fused_loss": True}), "training.fused_loss", "no fused loss"),
    (recipe(task="preference", data=rows("chat")), "data.train[0].format", "needs pairs"),
    (recipe(data=rows("preference")), "data.train[0].format", "task: preference"),
    (recipe(data=rows("chat", eval=[{"path": "./b.jsonl", "format": "preference"}])), "data.eval[0].format", "task: preference"),
    (recipe(training={"early_stopping_patience": 2}), "training.early_stopping_patience", "data.eval"),
    (recipe(model={"base": "x/y", "attention": "flash_attention_2", "dtype": "float32"}), "model.attention", "float32"),
    (recipe(method={"type": "full"}, output={"merge": True}), "output.merge", "no adapter"),
]
AS_WRITTEN = [
    (recipe(method={"type": "qlora", "quantization": "int8", "double_quant": True}), "method.double_quant", "int8"),
    (recipe(training={"eval_steps": 5}), "training.eval_steps", "without evaluation"),
    (recipe(task="masked_lm", data=rows("text", loss_on="completion")), "data.loss_on", "remove loss_on"),
    (recipe(compute={"provider": "local", "purchase": "spot"}), "compute.purchase", "cannot be had"),
    (recipe(compute={"provider": "local", "purchase": "flex_start"}), "compute.purchase", "cannot be had"),
    (recipe(compute={"provider": "local", "nodes": 2}), "compute.nodes", "nodes: 1"),
    (recipe(compute={"provider": "aws", "purchase": "flex_start"}), "compute.purchase", "Google Cloud"),
    (recipe(compute={"provider": "gcp", "instance": "ml.p4d.24xlarge"}), "compute.instance", "machine of aws"),
    (recipe(compute={"provider": "aws", "instance": "a3-highgpu-8g"}), "compute.instance", "machine of gcp"),
    (recipe(compute={"provider": "local", "instance": "g2-standard-8"}), "compute.instance", "machine of gcp"),
    (recipe(compute={"provider": "aws", "instance": "g5.2xlarge"}), "compute.instance", "ml.g5.2xlarge"),
    (recipe(tracking={"project": "p"}), "tracking.project", "report_to"),
    (recipe(model={"base": "https://huggingface.co/Qwen/Qwen3-8B/tree/main"}), "model.base", "write Qwen/Qwen3-8B"),
    (recipe(model={"base": "a b"}), "model.base", "neither"),
    (recipe(model={"base": "builtin:other"}), "model.base", "builtin:quickstart"),
    (recipe(data={"train": [{"path": "https://a.b/c.jsonl"}]}), "data.train[0].path", "https:// is not read"),
    (recipe(data={"train": [{"path": "s3://bucket/folder/"}]}), "data.train[0].path", "data in a bucket is one file"),
    (recipe(data={"train": [{"path": "gs://rows.jsonl"}]}), "data.train[0].path", "data in a bucket is one file"),
    (recipe(data={"train": [{"path": "a/b/c"}]}), "data.train[0].path", "put ./"),
    (recipe(data={"train": [{"path": "C:\\a.jsonl"}]}), "data.train[0].path", "backslashes"),
    (recipe(data={"train": [{"path": "./a.txt"}]}), "data.train[0].path", "format: text"),
    (recipe(data={"train": [{"path": "./a.csv", "format": "chat"}]}), "data.train[0].format", "lists of messages"),
    (recipe(data={"train": [{"path": "x", "format": "text", "columns": {"b": "a"}}]}), "data.train[0].columns.b", "expected text"),
    (recipe(data={"chat_template": "mistral"}), "data.chat_template", "no chat template mistral"),
    (recipe(model={"base": "builtin:quickstart"}), "data.train[0]", "no chat template for chat rows"),
]
POSSIBLE = [
    PLAIN,
    recipe(training={"epochs": 1, "max_steps": None, "warmup_ratio": None, "warmup_steps": 0}),
    recipe(training={"batch_size": 12, "micro_batch_size": 4}),
    recipe(training={"micro_batch_size": "auto", "eval_steps": "auto"}),
    recipe(method={"type": "lora", "init": "olora"}),
    recipe(method={"type": "qlora", "quantization": "int8"}),
    recipe(method={"type": "lora", "target_parameters": ["w"], "dropout": 0.0}),
    recipe(task="masked_lm", data=rows("text", loss_on="all")),
    recipe(task="preference", data=rows("preference")),
    recipe(data=rows("text", packing=True), model={"base": "x/y", "attention": "eager"}),
    recipe(data=rows("chat", eval=0.1), training={"early_stopping_patience": 2, "eval_steps": 3}),
    recipe(method={"type": "full"}, output={"merge": False}),
    recipe(compute={"provider": "local", "nodes": 1, "purchase": "on_demand", "instance": "auto"}),
    recipe(compute={"provider": "auto", "instance": "ml.g5.xlarge", "purchase": "flex_start"}),
    recipe(compute={"provider": "gcp", "instance": "ct5lp-hightpu-4t"}),
    recipe(model={"base": "~/models/mine"}),
    recipe(model={"base": "gs://bucket/with/many/parts"}),
    recipe(data={"train": [{"path": "data/with/folders/a.jsonl"}, {"path": "owner/name"}, {"path": "s3://b/a/b/c.parquet"}]}),
]


def found(given: dict[str, Any]) -> dict[str, str]:
    return {fault.path: str(fault) for fault in rules.conflicts_as_written(given)}


@pytest.mark.parametrize(("given", "path", "words"), IN_ANY_RECIPE + AS_WRITTEN)
def test_found_at_its_key(given: dict[str, Any], path: str, words: str) -> None:
    faults = found(given)
    assert words in faults[path]
    assert len(faults) == 1


@pytest.mark.parametrize(("given", "path", "words"), IN_ANY_RECIPE)
def test_the_model_itself_refuses_what_no_recipe_can_have(given: dict[str, Any], path: str, words: str) -> None:
    assert [fault.path for fault in rules.conflicts(given)] == [path]
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(given)
    (error,) = caught.value.errors()
    assert error["type"] == rules.ERROR_TYPE
    assert words in error["msg"]


@pytest.mark.parametrize(("given", "path", "words"), AS_WRITTEN)
def test_what_only_its_author_can_be_blamed_for_passes_the_model(given: dict[str, Any], path: str, words: str) -> None:
    assert rules.conflicts(given) == []


@pytest.mark.parametrize("given", POSSIBLE)
def test_possible_recipes_pass(given: dict[str, Any]) -> None:
    assert found(given) == {}
    Recipe.model_validate(given)


@pytest.mark.parametrize("given", POSSIBLE)
def test_a_recipe_with_every_default_written_out_is_read_back(given: dict[str, Any]) -> None:
    """A plan and a job file carry whole recipes; the rules must not take their defaults for the author's words."""
    first = Recipe.model_validate(given)
    assert Recipe.model_validate_json(first.model_dump_json()) == first
    decided = first.training.model_copy(update={"micro_batch_size": 1, "eval_steps": 10, "save_steps": 10, "learning_rate": 1e-4})
    local = first.compute.model_copy(update={"provider": "local", "nodes": 1})
    job = JobFile(
        cloudtune_version="0",
        recipe=first.model_copy(update={"training": decided, "compute": local}),
        layout=Layout(micro_batch_size=1, gradient_accumulation_steps=16, gradient_checkpointing=False),
        device="cpu",
        train=(),
    )
    assert JobFile.model_validate_json(job.model_dump_json()) == job


def test_values_of_wrong_types_are_left_to_the_schema() -> None:
    for value in (None, 7, "x", [], {}, [1], {"a": 1}, 1.5, True):
        for name in PLAIN:
            rules.conflicts_as_written({**PLAIN, name: value})
        rules.conflicts_as_written({**PLAIN, "data": {"train": value, "eval": value, "chat_template": value}})
        steps = {"batch_size": value, "micro_batch_size": value, "warmup_steps": value, "max_steps": value}
        rules.conflicts_as_written({**PLAIN, "training": steps})
        rules.conflicts_as_written({**PLAIN, "data": {"train": [{"path": value, "format": value, "columns": value}]}})
