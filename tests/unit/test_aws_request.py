"""The body of CreateTrainingJob: valid for any plan, and for each way of asking for machines, network and keys."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtune.clock import VirtualClock
from cloudtune.errors import RejectedError, UsageError
from cloudtune.job import LaunchId
from cloudtune.manifest import MetricsRow
from cloudtune.planning.decide import decide
from cloudtune.providers.aws.limits import violations
from cloudtune.providers.aws.request import METRICS, build_request
from cloudtune.providers.base import Staged
from cloudtune.recipe.load import load_file
from cloudtune.recipe.spec import Recipe
from cloudtune.rendering.jobfile import job_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.launch import launch
from cloudtune.verbs.plan import gather
from cloudtune_trainer.report import _line
from tests.unit.aws_builders import DIGEST, Account, aws_plan, body_of, candidate

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PLAN_ARN = "arn:aws:sagemaker:us-east-1:123456789012:training-plan/my-plan"


def channels(body):
    return {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in body["InputDataConfig"]}


def test_there_are_thirteen_recipes():
    assert len(RECIPES) == 13


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_has_a_body(path, tmp_path):
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    plan = decide(gather(load_file(path), provider="aws", session=session))
    body = body_of(plan, launch_id=f"{plan.recipe.name}-abcdefghjk")
    assert violations(body) == ()
    assert body["ResourceConfig"]["InstanceCount"] == plan.layout.nodes
    first = body["ResourceConfig"].get("InstanceType") or body["ResourceConfig"]["InstancePreferences"][0]["InstanceType"]
    assert first == plan.chosen.instance
    assert {"job", "code"} <= channels(body).keys()
    assert body["EnableManagedSpotTraining"] is (plan.chosen.purchase == "spot")
    assert "HF_TOKEN" not in json.dumps(body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_valid_plan_gives_a_body_within_the_limits(data, tmp_path):
    purchase = data.draw(st.sampled_from(["on_demand", "spot"]))
    aws = {
        "network_isolation": data.draw(st.booleans()),
        "kms_key": data.draw(st.sampled_from([None, KEY])),
        **data.draw(st.sampled_from([{}, {"subnets": ["subnet-0a1b"], "security_groups": ["sg-0a1b"]}])),
    }
    if purchase == "on_demand":
        aws["keep_alive_minutes"] = data.draw(st.integers(0, 60))
        aws["training_plan"] = data.draw(st.sampled_from([None, PLAN_ARN]))
    plan = aws_plan(
        tmp_path,
        aws=aws,
        purchase=purchase,
        instance=data.draw(st.sampled_from(["ml.g5.2xlarge", "ml.p4d.24xlarge", "ml.p3.2xlarge", "ml.m5.large"])),
        nodes=data.draw(st.integers(1, 64)),
        name=data.draw(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)),
        update={"max_seconds": data.draw(st.none() | st.integers(1, 10**9)), "hours_high": data.draw(st.floats(0, 1e5))},
    )
    body = body_of(plan, launch_id=f"{plan.recipe.name}-abcdefghjk")
    assert violations(body) == ()
    assert body == body_of(plan, launch_id=f"{plan.recipe.name}-abcdefghjk")
    if plan.max_seconds is not None:
        assert body["StoppingCondition"]["MaxRuntimeInSeconds"] <= plan.max_seconds


def test_spot_has_checkpoints_a_longest_wait_and_no_list(tmp_path):
    plan = aws_plan(tmp_path, purchase="spot", update={"max_seconds": 3600})
    body = body_of(plan.model_copy(update={"fallbacks": (candidate(plan, "ml.g6.2xlarge"),)}))
    assert body["EnableManagedSpotTraining"] is True
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 3300, "MaxWaitTimeInSeconds": 3300 + 86_400}
    assert body["CheckpointConfig"]["S3Uri"].endswith("/cloudtune/jobs/little-abcdefghjk/checkpoints/")
    assert body["ResourceConfig"] == {"InstanceCount": 1, "InstanceType": "ml.g5.2xlarge"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_on_demand_lists_fallbacks_and_keeps_the_budget_on_the_dearest(tmp_path, nodes):
    """A candidate's price is that of all its machines."""
    plan = aws_plan(tmp_path, nodes=nodes, budget={"max_usd": 9.0}, update={"max_seconds": 21_600})
    plan = plan.model_copy(update={"fallbacks": (candidate(plan, "ml.g6.2xlarge", usd=5.0), candidate(plan, "ml.p4d.24xlarge", usd=60.0))})
    body = body_of(plan)
    assert body["ResourceConfig"]["InstancePreferences"] == [{"InstanceType": "ml.g5.2xlarge"}, {"InstanceType": "ml.g6.2xlarge"}]
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 12_960 - 300, "MaxPendingTimeInSeconds": 7_200}


def test_no_fallback_is_dearer_than_what_the_plan_has_shown(tmp_path):
    plan = aws_plan(tmp_path)
    dear = (candidate(plan, "ml.p4d.24xlarge", usd=plan.usd_high + 1), candidate(plan, "ml.g6.2xlarge", usd=plan.usd_high))
    preferred = body_of(plan.model_copy(update={"fallbacks": dear}))["ResourceConfig"]["InstancePreferences"]
    assert preferred == [{"InstanceType": "ml.g5.2xlarge"}, {"InstanceType": "ml.g6.2xlarge"}]


def test_a_fallback_on_which_the_budget_would_end_the_run_is_left_out_also_when_it_is_named(tmp_path):
    plan = aws_plan(tmp_path, aws={"fallback_instances": ["ml.g6.2xlarge"]}, budget={"max_usd": 9.0}, update={"max_seconds": 21_600})
    body = body_of(plan.model_copy(update={"candidates": (candidate(plan, "ml.g6.2xlarge", usd=10.0),)}))
    assert body["ResourceConfig"] == {"InstanceCount": 1, "InstanceType": "ml.g5.2xlarge"}
    assert body["StoppingCondition"]["MaxRuntimeInSeconds"] == 21_600 - 300


def test_a_job_without_a_limit_ends_at_twice_the_longest_estimate(tmp_path):
    assert body_of(aws_plan(tmp_path))["StoppingCondition"]["MaxRuntimeInSeconds"] == 2 * 4 * 3600
    short = aws_plan(tmp_path, update={"hours": 0.1, "hours_low": 0.1, "hours_high": 0.2})
    assert body_of(short)["StoppingCondition"]["MaxRuntimeInSeconds"] == 7_200


def test_named_fallbacks_must_be_known_to_run(tmp_path):
    plan = aws_plan(tmp_path, aws={"fallback_instances": ["ml.g6.2xlarge"]})
    with pytest.raises(RejectedError, match=r"not known to run on ml\.g6\.2xlarge"):
        body_of(plan)
    known = plan.model_copy(update={"candidates": (candidate(plan, "ml.g6.2xlarge", usd=40.0),)})
    assert len(body_of(known)["ResourceConfig"]["InstancePreferences"]) == 2


def test_own_network_keys_and_several_machines(tmp_path):
    aws = {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "kms_key": KEY}
    body = body_of(aws_plan(tmp_path, aws=aws, nodes=2))
    assert body["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    assert body["OutputDataConfig"]["KmsKeyId"] == KEY
    assert body["EnableInterContainerTrafficEncryption"] is True
    assert body["ResourceConfig"] == {"InstanceCount": 2, "InstanceType": "ml.g5.2xlarge"}  # its own disk takes no key
    attached = body_of(aws_plan(tmp_path, aws=aws, instance="ml.p3.2xlarge"))["ResourceConfig"]
    assert (attached["VolumeSizeInGB"], attached["VolumeKmsKeyId"]) == (80, KEY)


def test_subnets_alone_are_refused(tmp_path):
    with pytest.raises(RejectedError, match=r"VpcConfig\.SecurityGroupIds: has 0 entries"):
        body_of(aws_plan(tmp_path, aws={"subnets": ["subnet-1"]}))


def test_isolation_brings_wheels_and_refuses_what_it_cannot_reach(tmp_path):
    body = body_of(aws_plan(tmp_path, aws={"network_isolation": True}))
    assert set(channels(body)) == {"job", "train", "code", "wheels"}
    assert body["EnableNetworkIsolation"] is True
    for changes in ({"model": {"base": "org/model"}}, {"secrets": {"TOKEN": "env"}}):
        with pytest.raises(RejectedError, match="network_isolation"):
            body_of(aws_plan(tmp_path, aws={"network_isolation": True}, **changes))


def test_one_type_without_a_disk_of_its_own_is_enough_to_ask_for_one(tmp_path):
    plan = aws_plan(tmp_path)
    body = body_of(plan.model_copy(update={"fallbacks": (candidate(plan, "ml.p3.2xlarge"),)}))
    assert len(body["ResourceConfig"]["InstancePreferences"]) == 2
    assert body["ResourceConfig"]["VolumeSizeInGB"] == 80


@pytest.mark.parametrize("aws", [{"keep_alive_minutes": 30}, {"training_plan": PLAN_ARN}])
def test_warm_pool_and_training_plan_exclude_spot_and_fallbacks(aws, tmp_path):
    plan = aws_plan(tmp_path, aws=aws)
    body = body_of(plan.model_copy(update={"fallbacks": (candidate(plan, "ml.g6.2xlarge"),)}))
    assert violations(body) == ()
    assert body["ResourceConfig"]["InstanceType"] == "ml.g5.2xlarge"
    with pytest.raises(RejectedError, match="cannot be combined"):
        body_of(aws_plan(tmp_path, aws=aws, purchase="spot"))


def test_staged_places_and_an_image_of_ours(tmp_path):
    plan = aws_plan(tmp_path)
    assert all("/not-staged/" in uri for uri in channels(body_of(plan)).values())
    image = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/ours@sha256:{DIGEST}"
    body = body_of(plan, image=image, job="s3://b/j", train="s3://b/t/")
    assert channels(body) == {"job": "s3://b/j/", "train": "s3://b/t/"}
    assert body["AlgorithmSpecification"]["TrainingImage"] == image
    assert body["AlgorithmSpecification"]["ContainerArguments"] == ["train"]


def with_data(plan, train, evaluation=None, **model):
    """The plan with other data and model, as a recipe would have said it."""
    parts = {"train": [{"path": path, "format": "completion"} for path in train]}
    if evaluation:
        parts["eval"] = [{"path": path, "format": "completion"} for path in evaluation]
    body = {**plan.recipe.model_dump(mode="json", exclude_unset=True), "data": parts, **({"model": model} if model else {})}
    written = Recipe.model_validate(body)
    return plan.model_copy(update={"recipe": written, "resolved": written})


def test_data_and_a_model_in_s3_are_channels_where_they_are_and_the_trainer_is_told_where(tmp_path):
    plan = aws_plan(tmp_path, aws={"network_isolation": True})
    plan = with_data(plan, ["./rows.jsonl", "s3://theirs/a/b c.jsonl"], ["s3://theirs/held.csv"], base="s3://theirs/models/tiny")
    body = body_of(plan)
    assert violations(body) == ()
    found = channels(body)
    assert found.keys() == {"job", "train", "code", "wheels", "train-1", "eval-0", "model"}, "no way out of the job is needed for them"
    assert [found[name] for name in ("train-1", "eval-0", "model")] == [
        "s3://theirs/a/b c.jsonl", "s3://theirs/held.csv", "s3://theirs/models/tiny/",
    ]  # fmt: skip
    orders = job_file(plan, {})
    assert [channel.path for channel in (*orders.train, *orders.eval)] == ["train/0-rows.jsonl", "train-1/b c.jsonl", "eval-0/held.csv"]
    assert (orders.model_path, orders.recipe.model.base) == ("model", "model")
    assert "theirs" not in orders.model_dump_json(), "where it was is no order for the trainer"


@pytest.mark.parametrize("changes", [{"train": ["gs://theirs/rows.jsonl"]}, {"train": ["./rows.jsonl"], "base": "gs://theirs/model"}])
def test_what_is_googles_is_refused_before_anything_is_sent(changes, tmp_path):
    plan = with_data(aws_plan(tmp_path), **changes)
    with pytest.raises(RejectedError, match="Google's") as caught:
        body_of(plan)
    assert caught.value.code == "data-elsewhere"
    untouched = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock(), places={"aws": None})
    with pytest.raises(RejectedError, match="Google's"):
        launch(plan, session=untouched)


def test_missing_settings_are_named_all_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        build_request(aws_plan(tmp_path), Staged(DIGEST), LaunchId("x-abc"), Account(None, None))
    assert "aws_role and aws_bucket" in caught.value.what
    assert "CLOUDTUNE_AWS_ROLE=arn:aws:iam::" in caught.value.hint
    with pytest.raises(UsageError, match="aws_region is eu-west-1"):
        build_request(aws_plan(tmp_path), Staged(DIGEST), LaunchId("x-abc"), Account(aws_region="eu-west-1"))


def test_a_google_secret_is_refused(tmp_path):
    with pytest.raises(RejectedError, match="TOKEN is Google's"):
        body_of(aws_plan(tmp_path, secrets={"TOKEN": "gcp:secretmanager:token"}))


def test_the_nonce_follows_the_content(tmp_path):
    plan, other = aws_plan(tmp_path), aws_plan(tmp_path, nodes=2)
    assert body_of(plan)["Environment"]["CLOUDTUNE_NONCE"] != body_of(other)["Environment"]["CLOUDTUNE_NONCE"]
    assert {"Key": "cloudtune:nonce", "Value": body_of(plan)["Environment"]["CLOUDTUNE_NONCE"]} in body_of(plan)["Tags"]


def test_the_metrics_are_found_in_the_trainers_own_lines():
    train = _line(
        MetricsRow(at=1.0, phase="train", elapsed_seconds=1, step=5, total_steps=20, loss=1.25, learning_rate=2e-5, tokens_per_second=850)
    )
    evaluated = _line(MetricsRow(at=1.0, phase="eval", elapsed_seconds=1, step=5, total_steps=20, eval_loss=1.5))
    found = {name: [match[1] for line in (train, evaluated) for match in re.finditer(regex, line)] for name, regex in METRICS.items()}
    assert found == {
        "train:loss": ["1.2500"],
        "eval:loss": ["1.5000"],
        "train:learning_rate": ["2e-05"],
        "train:tokens_per_second": ["850"],
    }
