"""Parts of a rehearsal that need neither cloud nor trainer: the small job, the environment, the choice of a stand-in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cloudtune.errors import UsageError
from cloudtune.providers.base import Staged
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.standins.registry import STANDINS, standin
from cloudtune.verbs.rehearse import environment, require_cloud
from cloudtune.verbs.render import render
from cloudtune.verbs.small import Small, SmallStager, make_small
from tests.unit.aws_builders import aws_plan


def small_of(folder: Path, **changes: object) -> Small:
    plan = aws_plan(folder, nodes=2, purchase="spot", **changes)
    with Session.open(Settings(home=folder / "home", cache=folder / "cache")) as session:
        return make_small(plan, session=session, runner=None, image="", folder=folder, say=lambda _: None)  # type: ignore[arg-type]


def test_the_small_job_is_for_one_cpu_and_the_request_for_the_plans_machine(tmp_path: Path):
    small = small_of(tmp_path)
    orders = json.loads(small.job["job.json"])
    assert (orders["device"], orders["layout"]["gpus"], orders["layout"]["nodes"]) == ("cpu", 0, 1)
    assert orders["layout"]["micro_batch_size"] * orders["layout"]["gradient_accumulation_steps"] == 4
    assert orders["max_seconds"] is None
    assert (small.plan.chosen.instance, small.plan.chosen.purchase, small.plan.layout.gpus) == ("ml.g5.2xlarge", "spot", 1)
    assert small.plan.layout.nodes == 1


def test_rows_are_held_out_where_the_recipe_has_none(tmp_path: Path):
    assert json.loads(small_of(tmp_path).job["job.json"])["recipe"]["data"]["eval"] == 0.1


def test_the_stager_gets_the_small_orders_and_everything_else_as_it_is(tmp_path: Path):
    seen = []

    class Remembers:
        def stage(self, bundle, plan, progress):
            progress("staging")
            seen.append((bundle, plan))
            return Staged(bundle.digest, {"job": "s3://bucket/job/"})

    small = small_of(tmp_path)
    bundle = render(small.plan)
    stager = SmallStager(Remembers(), small)
    staged = stager.stage(bundle, small.plan, lambda _: None)
    ((given, plan),) = seen
    assert (given.job, given.image, plan) == (small.job, bundle.image, small.plan)
    assert stager.staged == staged
    assert staged.digest != bundle.digest


def test_no_login_of_the_users_reaches_the_stand_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("CLOUDTUNE_AWS_ROLE", "mine")
    monkeypatch.setenv("UNRELATED", "kept")
    before = dict(os.environ)
    with environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "CLOUDTUNE_AWS_ROLE": "theirs"}, STANDINS["aws"].login):
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["CLOUDTUNE_AWS_ROLE"] == "theirs"
        assert os.environ["UNRELATED"] == "kept"
    assert dict(os.environ) == before


def test_a_provider_without_a_stand_in(tmp_path: Path):
    require_cloud(None)
    require_cloud("aws")
    with pytest.raises(UsageError) as caught:
        standin("local")
    assert caught.value.code == "no-standin"
    assert "cloudtune launch" in caught.value.hint
