"""What is staged is what the job's orders say: data that changed since they were written is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from cloudtune.errors import StagingError
from cloudtune.providers.aws.staging import channels
from cloudtune.providers.local.staging import LocalStager
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import DataSource
from cloudtune.verbs.render import render
from tests import builders
from tests.unit.aws_builders import aws_plan

OTHER = '{"prompt": "other", "completion": "rows"}\n'


def test_data_that_changed_is_not_staged_for_aws(tmp_path: Path):
    plan = aws_plan(tmp_path)
    bundle = render(plan)
    assert channels(bundle, plan, own_image=True)["train"] == {"0-rows.jsonl": tmp_path / "rows.jsonl"}
    (tmp_path / "rows.jsonl").write_text(OTHER)
    with pytest.raises(StagingError, match="changed while it was being staged"):
        channels(bundle, plan, own_image=True)


def test_data_that_changed_is_not_staged_for_this_machine(tmp_path: Path):
    plan = builders.plan(tmp_path)
    bundle = render(plan)
    stager = LocalStager(tmp_path / "home")
    assert any(uri.startswith("file://") for uri in stager.stage(bundle, plan, lambda _: None).uris.values())
    (tmp_path / "rows.jsonl").write_text(OTHER)
    with pytest.raises(StagingError, match="changed while it was being staged"):
        stager.stage(bundle, plan, lambda _: None)


def test_orders_carry_limit_digests_and_evaluation_and_nothing_of_this_machine(tmp_path: Path):
    """What is missing here is forgotten by the job: it would run over its budget, or take other rows than were planned."""
    plan = builders.plan(tmp_path, max_seconds=60)
    shutil.copyfile(tmp_path / "rows.jsonl", tmp_path / "held.jsonl")
    held = (DataSource(path="./held.jsonl", format="completion"),)
    asked = plan.recipe.model_copy(update={"data": plan.recipe.data.model_copy(update={"eval": held})})
    asked = asked.model_copy(update={"output": asked.output.model_copy(update={"dir": str(tmp_path / "mine")})})
    content = render(plan.model_copy(update={"recipe": asked, "resolved": asked})).job["job.json"]
    orders = JobFile.model_validate_json(content)
    digest = hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()
    assert (orders.max_seconds, orders.predicted_peak_bytes, orders.device) == (60, plan.memory.peak_bytes, "cpu")
    assert [(channel.path, channel.sha256) for channel in (*orders.train, *orders.eval)] == [
        ("train/0-rows.jsonl", digest),
        ("eval/0-held.jsonl", digest),
    ]
    assert str(tmp_path).encode() not in content
