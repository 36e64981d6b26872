"""Preflight and doctor at AWS: each thing that would fail later is said before, with its fix; what may not be asked stops nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cloudtune.providers.aws.inputs import questions
from cloudtune.providers.aws.policy import policies
from cloudtune.providers.aws.preflight import AwsPreflight, trusts
from cloudtune.standins.aws.account import Account
from cloudtune.standins.aws.cloud import AwsStandin
from tests.contract.aws_world import AwsWorld
from tests.e2e.command import cloudtune
from tests.unit import aws_builders

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory):
    with AwsStandin.start(tmp_path_factory.mktemp("cloud"), mode="scripted") as cloud:
        yield cloud


@pytest.fixture
def world(running_cloud, tmp_path, monkeypatch):
    fresh = Account(quota=8)
    for name in ("quota", "quotas", "warm_pool_quota"):
        setattr(running_cloud.account, name, getattr(fresh, name))
    running_cloud.faults.clear()
    running_cloud.faults.add("SimulatePrincipalPolicy", "access_denied", None)  # moto has no policy simulator
    running_cloud.sagemaker.records.clear()
    for name, value in running_cloud.environment.items():
        monkeypatch.setenv(name, value)
    return AwsWorld(tmp_path, running_cloud)


def codes(world, plan=None, **settings):
    check = AwsPreflight(world.regions, replace(world.settings, **settings))
    return [problem.code for problem in check.check(plan or aws_builders.aws_plan(world.folder))]


def rows(world, **settings):
    return {finding.name: finding for finding in AwsPreflight(world.regions, replace(world.settings, **settings)).examine()}


def test_all_is_well(world):
    assert codes(world) == []
    assert codes(world, aws_bucket="auto") == []
    found = rows(world)
    assert {name for name, finding in found.items() if finding.verdict == "ok"} == {"region", "login", "role", "bucket"}
    assert found["pass role"].verdict == "note"


def test_without_a_login_only_that_is_said(world, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    world.regions.login("us-east-1").renew()
    assert codes(world) == ["login"]
    assert "aws sso login" in rows(world)["login"].hint


def test_an_expired_login_is_said(world):
    world.cloud.faults.add("GetCallerIdentity", "expired")
    assert codes(world) == ["login"]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"aws_role": "arn:aws:iam::123456789012:role/nobody"}, "no-role"),
        ({"aws_role": "arn:aws:iam::999999999999:role/cloudtune-job"}, "wrong-account"),
        ({"aws_role": "cloudtune-job"}, "bad-setting"),
        ({"aws_bucket": "nobody-has-this"}, "no-bucket"),
    ],
)
def test_a_setting_that_will_not_do_is_named_with_the_way_out(world, settings, code):
    if code == "bad-setting":
        assert rows(world, aws_bucket=None, **settings)["role"].error.code == code
        return
    assert codes(world, **settings) == [code]
    problem = next(finding for finding in rows(world, **settings).values() if finding.verdict == "problem")
    assert problem.hint


def test_a_role_that_does_not_trust_sagemaker(world):
    world.regions.login("us-east-1").client("iam").create_role(RoleName="untrusting", AssumeRolePolicyDocument=json.dumps(TRUST))
    assert codes(world, aws_role="arn:aws:iam::123456789012:role/untrusting") == ["role-trust"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ({"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}, True),
        ({"Effect": "Allow", "Principal": {"Service": ["x", "sagemaker.amazonaws.com"]}}, True),
        ({"Effect": "Deny", "Principal": {"Service": "sagemaker.amazonaws.com"}}, False),
        ({"Effect": "Allow", "Principal": {"AWS": "*"}}, False),
        ({"Effect": "Allow", "Principal": "*"}, False),
    ],
)
def test_trust_policies_in_all_their_forms(statement, expected):
    assert (
        trusts({"Statement": [statement]}) is trusts({"Statement": statement}) is trusts(json.dumps({"Statement": [statement]})) is expected
    )


def test_a_bucket_of_another_region(world):
    client = world.regions.login("eu-west-1").client("s3")
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert codes(world, aws_bucket="far-away") == ["bucket-region"]


def test_quotas_none_too_small_and_in_use(world):
    name = "ml.g5.2xlarge for training job usage"
    world.cloud.account.quotas[name] = 0
    problem = AwsPreflight(world.regions, world.settings).check(aws_builders.aws_plan(world.folder))[0]
    assert (problem.code, problem.exit_code, problem.where) == ("quota", 3, "L-2D6DEB3C")
    assert f"Amazon SageMaker > {name}" in problem.hint
    world.cloud.account.quotas[name] = 2
    assert codes(world) == []
    world.service.submit(world.request("busy-aaa"))
    world.service.submit(world.request("busy-bbb"))
    assert codes(world) == ["quota-in-use"]
    world.cloud.finish("busy-aaa")
    assert codes(world) == []


def test_spot_has_a_quota_of_its_own(world):
    world.cloud.account.quotas["ml.g5.2xlarge for spot training job usage"] = 0
    assert codes(world) == []
    plan = aws_builders.aws_plan(world.folder, purchase="spot")
    assert codes(world, plan) == ["quota"]


def test_a_quota_is_looked_up_by_its_code_the_second_time(world):
    calls = world.cloud.faults.calls
    codes(world)
    listed = calls["ListServiceQuotas"]
    assert listed > 1
    codes(world)
    assert calls["ListServiceQuotas"] == listed


def test_a_secret_that_is_missing_is_said_and_its_value_is_never_asked_for(world):
    plan = aws_builders.aws_plan(world.folder, secrets={"HF_TOKEN": "aws:secretsmanager:cloudtune/hf", "OTHER": "env"})
    assert codes(world, plan) == ["secret-missing"]
    world.regions.login("us-east-1").client("secretsmanager").create_secret(Name="cloudtune/hf", SecretString="x")
    assert codes(world, plan) == []
    assert world.cloud.faults.calls["GetSecretValue"] == 0


class TheirBucket:
    """A bucket of the user's own with data and a model, and plans that read them."""

    def __init__(self, world):
        self.world = world
        self.client = world.regions.login("us-east-1").client("s3")
        self.client.create_bucket(Bucket="theirs")
        self.put("rows/a.jsonl", "tiny/config.json", "tiny/model.safetensors")

    def put(self, *keys):
        for key in keys:
            self.client.put_object(Bucket="theirs", Key=key, Body=b"{}")

    def let_everybody_read(self):
        allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::theirs/*"}
        self.client.put_bucket_policy(Bucket="theirs", Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))

    def codes(self, data="s3://theirs/rows/a.jsonl", base="s3://theirs/tiny"):
        return codes(self.world, aws_builders.aws_plan(self.world.folder, data=data, model={"base": base}))


@pytest.fixture
def theirs(world):
    bucket = TheirBucket(world)
    yield bucket
    world.cloud.faults.clear()
    for item in bucket.client.list_objects_v2(Bucket="theirs").get("Contents", ()):
        bucket.client.delete_object(Bucket="theirs", Key=item["Key"])
    bucket.client.delete_bucket(Bucket="theirs")


def test_data_and_a_model_in_s3_that_are_there(theirs):
    assert theirs.codes() == []
    assert theirs.codes(base="s3://theirs/tiny/") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"data": "s3://theirs/rows/b.jsonl"}, "data-missing"),
        ({"data": "s3://nobody-has-this/rows.jsonl"}, "no-bucket"),
        ({"base": "s3://theirs/other"}, "model-missing"),
        ({"base": "s3://theirs/tin"}, "model-missing"),
    ],
)
def test_data_and_a_model_in_s3_that_are_not(theirs, changes, code):
    assert theirs.codes(**changes) == [code]


def test_a_model_without_weights(theirs):
    theirs.client.delete_object(Bucket="theirs", Key="tiny/model.safetensors")
    assert theirs.codes() == ["model-missing"]


def test_data_of_another_region_is_refused_with_both_ways_out(world):
    client = world.regions.login("eu-west-1").client("s3")
    client.create_bucket(Bucket="their-far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    plan = aws_builders.aws_plan(world.folder, data="s3://their-far-away/rows.jsonl")
    (problem,) = AwsPreflight(world.regions, world.settings).check(plan)
    assert problem.code == "bucket-region"
    assert "compute.regions=[eu-west-1]" in problem.hint
    assert "aws s3 cp" in problem.hint


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:ListBucket"])
def test_a_role_that_may_not_read_the_data(theirs, world, action):
    world.cloud.faults.clear()  # the stand-in's own simulator answers
    world.cloud.account.denied.add(action)
    try:
        assert theirs.codes(base="builtin:quickstart") == ["role-denied"]
    finally:
        world.cloud.account.denied.clear()


@pytest.mark.parametrize("asked", [True, False])
def test_a_bucket_with_a_policy_of_its_own_may_let_the_role_read(theirs, world, asked):
    """The simulator knows the role's own policies only; who may not see the bucket's cannot say that it does not help."""
    world.cloud.faults.clear()
    world.cloud.account.denied.add("s3:GetObject")
    if asked:
        theirs.let_everybody_read()
    else:
        world.cloud.faults.add("GetBucketPolicy", "access_denied", None)
    try:
        assert theirs.codes() == []
        plan = aws_builders.aws_plan(world.folder, data="s3://theirs/rows/a.jsonl", model={"base": "s3://theirs/tiny"})
        found = {name: ask() for name, ask in questions(world.regions.login("us-east-1"), plan, world.settings.aws_role)}
        assert [found[name].verdict for name in ("train-0", "model")] == ["note", "note"]
        assert "the bucket's policy has to allow it" in found["train-0"].found
        assert "arn:aws:s3:::theirs/tiny/config.json" in found["model"].hint, "a folder's name without a slash is no file of it"
    finally:
        world.cloud.account.denied.clear()


def test_a_bucket_s_policy_does_not_help_a_role_that_is_denied_by_its_own(theirs, world):
    """Of all policies together a denial that is written down wins."""
    world.cloud.faults.clear()
    theirs.let_everybody_read()
    world.cloud.account.forbidden.add("s3:GetObject")
    try:
        assert theirs.codes(base="builtin:quickstart") == ["role-denied"]
    finally:
        world.cloud.account.forbidden.clear()


@pytest.mark.parametrize("operation", ["HeadObject", "ListObjectsV2"])
def test_a_login_that_may_not_look_at_the_data_leaves_it_to_the_role(theirs, world, operation):
    world.cloud.faults.add(operation, "access_denied", None)
    assert theirs.codes() == []


@pytest.mark.parametrize("operation", ["GetRole", "HeadBucket", "ListServiceQuotas", "DescribeImages"])
def test_what_may_not_be_asked_is_a_note(world, operation):
    world.cloud.faults.add(operation, "access_denied", None)
    expected = ["bucket-denied"] if operation == "HeadBucket" else []
    assert codes(world) == expected


def test_doctor_shows_every_row_and_ends_with_4_for_a_problem(world, tmp_path):
    environ = {**world.cloud.environment, "CLOUDTUNE_AWS_ROLE": "arn:aws:iam::123456789012:role/nobody"}
    ran = cloudtune("doctor", "--provider", "aws", "--json", folder=tmp_path, env=environ)
    assert ran.code == 4
    checks = {check["name"]: check for check in ran.json["checks"]}
    assert checks["aws login"]["verdict"] == "ok"
    assert checks["aws role"]["verdict"] == "problem"
    assert "there is no role nobody" in checks["aws role"]["found"]


def test_the_policies_allow_what_a_job_s_life_calls_and_are_printed_without_a_login(tmp_path):
    """Each action is one that the service has; resources are those of the settings."""
    import botocore.session

    environ = {
        "CLOUDTUNE_AWS_ROLE": "arn:aws:iam::123456789012:role/x",
        "CLOUDTUNE_AWS_BUCKET": "auto",
        "CLOUDTUNE_AWS_REGION": "us-east-1",
    }
    ran = cloudtune("doctor", "--provider", "aws", "--print-policy", folder=tmp_path, env=environ)
    assert ran.code == 0
    printed = ran.json
    assert printed == json.loads(json.dumps(policies(environ["CLOUDTUNE_AWS_ROLE"], "auto", "us-east-1")))
    session = botocore.session.get_session()
    names = {"servicequotas": "service-quotas"}
    assert printed["trust"]["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    seen = 0
    for statement in [*printed["user"]["Statement"], *printed["role"]["Statement"]]:
        for action in statement["Action"]:
            service, _, operation = action.partition(":")
            seen += 1
            if service == "s3" or action == "iam:PassRole":
                continue  # words of the permission alone
            assert operation in session.get_service_model(names.get(service, service)).operation_names, action
    assert seen > 40
    buckets = [s["Resource"] for s in printed["user"]["Statement"] if s["Sid"] in ("Bucket", "Files")]
    assert buckets == [
        "arn:aws:s3:::sagemaker-cloudtune-123456789012-us-east-1",
        "arn:aws:s3:::sagemaker-cloudtune-123456789012-us-east-1/cloudtune/*",
    ]
