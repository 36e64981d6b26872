"""What is staged is what the job's orders say: data that changed since they were written is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtune.errors import StagingError
from cloudtune.providers.aws.staging import channels
from cloudtune.providers.local.staging import LocalStager
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
