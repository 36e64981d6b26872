"""What the images and the trainer do not have is refused while planning; what changes nothing is said."""

import re
from pathlib import Path

import pytest

from cloudtune.errors import RejectedError, UsageError
from cloudtune.planning.buckets import copied
from cloudtune.planning.promises import (
    ATTENTION_IN_IMAGES,
    TRACKERS_IN_IMAGES,
    missing_in_images,
    out_of_reach,
    refuse_out_of_reach,
    refuse_undone,
    without_effect,
)
from cloudtune.recipe.load import load_text

ROOT = Path(__file__).resolve().parents[2]
HEAD = "version: 1\nname: a\nmodel: {{base: {base}{model}}}\nmethod: {{type: lora}}\n"
ROWS = "data: {{train: [{{path: {path}, format: {form}{source}}}]{data}}}\n"


def recipe(*, base="a/b", model="", path="./a.jsonl", form="completion", source="", data="", more=""):
    text = HEAD.format(base=base, model=model) + ROWS.format(path=path, form=form, source=source, data=data) + more
    return load_text(text).recipe


def test_preference_pairs_are_refused_before_a_machine_is_looked_for():
    with pytest.raises(UsageError, match="not in this release") as caught:
        refuse_undone(recipe(form="preference", more="task: preference\n"))
    assert caught.value.code == "not-trained"
    assert caught.value.hint
    refuse_undone(recipe())


def test_the_images_have_what_the_planner_believes():
    locked = (ROOT / "containers/requirements/cuda.txt").read_text()
    names = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", locked, re.MULTILINE)}
    assert {tracker for tracker in ("tensorboard", "wandb", "mlflow") if tracker in names} == TRACKERS_IN_IMAGES
    assert ("flash-attn" in names) == ("flash_attention_2" in ATTENTION_IN_IMAGES)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": ", attention: flash_attention_2"}, "attention flash_attention_2"),
        ({"more": "tracking: {report_to: [tensorboard, wandb]}\n"}, "report_to wandb"),
        ({"more": "tracking: {report_to: [tensorboard]}\n"}, None),
    ],
)
def test_what_images_lack_rules_the_clouds_out_and_not_this_machine(settings, reason):
    wanted = recipe(**settings)
    found = missing_in_images(wanted, "aws")
    assert (found is None) if reason is None else (reason in str(found))
    assert missing_in_images(wanted, "local") is None


@pytest.mark.parametrize(
    ("settings", "provider", "reason"),
    [
        ({"path": "s3://b/a.jsonl"}, "aws", None),
        ({"path": "s3://b/a.jsonl"}, "gcp", None),  # copied
        ({"base": "s3://b/model"}, "gcp", "s3://b/model is Amazon's, which a job on gcp does not read"),
        ({"base": "gs://b/model", "path": "s3://b/a.jsonl"}, "gcp", None),
        ({"path": "s3://b/a.jsonl"}, "local", "in a bucket, which a job on this machine does not read"),
        ({"path": "gs://b/a.jsonl"}, "aws", "gs://b/a.jsonl is Google's"),
        ({"path": "gs://b/a.jsonl"}, "gcp", None),
        ({"base": "gs://b/model"}, "aws", "gs://b/model is Google's"),
        ({"base": "s3://b/model", "path": "s3://b/a.jsonl"}, "aws", None),
        ({"data": ", eval: [{path: gs://b/e.jsonl, format: completion}]"}, "aws", "gs://b/e.jsonl"),
        ({}, "local", None),
    ],
)
def test_data_of_another_cloud_is_out_of_reach(settings, provider, reason):
    found = out_of_reach(recipe(**settings), provider)
    assert (found is None) if reason is None else (reason in str(found))
    if reason is None:
        refuse_out_of_reach(recipe(**settings), provider)


@pytest.mark.parametrize(
    ("settings", "provider", "command"),
    [
        ({"path": "gs://b/a.jsonl"}, "aws", "gcloud storage cp gs://b/a.jsonl s3://YOUR-BUCKET/"),
        ({"base": "s3://b/m"}, "gcp", "gcloud storage cp --recursive s3://b/m gs://YOUR-BUCKET/"),
        ({"path": "s3://b/a.jsonl"}, "local", "aws s3 cp s3://b/a.jsonl ."),
        ({"path": "gs://b/a.jsonl"}, "local", "gcloud storage cp gs://b/a.jsonl ."),
    ],
)
def test_the_command_that_brings_it_within_reach(settings, provider, command):
    with pytest.raises(RejectedError) as caught:
        refuse_out_of_reach(recipe(**settings), provider)
    assert caught.value.code == "data-elsewhere"
    assert caught.value.hint.startswith(f"{command}, and name that in the recipe")


def test_what_is_copied_is_said_with_its_size_and_price():
    stated = copied(recipe(path="s3://b/a.jsonl", source=", rows: 9, tokens: 10000000000"), "gcp")
    assert "s3://b/a.jsonl" in stated
    assert "about 36 GB" in stated
    assert "$3.24" in stated
    assert "not known" in copied(recipe(path="s3://b/a.jsonl"), "gcp")
    assert copied(recipe(path="s3://b/a.jsonl"), "aws") is None
    assert copied(recipe(path="gs://b/a.jsonl"), "gcp") is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"more": "training: {optimizer: sgd, adam_betas: [0.9, 0.95]}\n"}, "adam_betas changes nothing with optimizer sgd"),
        ({"more": "training: {lr_scheduler: constant, warmup_ratio: 0.1}\n"}, "warmup_ratio changes nothing"),
        ({"more": "training: {lr_scheduler: constant, warmup_steps: 5}\n"}, "warmup_steps changes nothing"),
        ({"base": "./model", "model": ", revision: v2"}, "model.revision changes nothing"),
        ({"source": ", split: test"}, "split changes nothing with a file"),
        ({"form": "text", "data": ", loss_on: completion"}, "text rows, which are learned whole"),
    ],
)
def test_what_changes_nothing_is_said(settings, sentence):
    (said,) = without_effect(recipe(**settings))
    assert sentence in said


def test_what_changes_something_is_not():
    training = "training: {optimizer: adamw_8bit, adam_betas: [0.9, 0.95], lr_scheduler: linear, warmup_steps: 5}\n"
    assert without_effect(recipe(path="a/b", source=", split: test", model=", revision: v2", more=training)) == ()
