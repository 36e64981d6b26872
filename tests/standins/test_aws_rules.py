"""What the stand-in SageMaker refuses, with the service's codes and words; and that our own table agrees with it."""

from __future__ import annotations

import json
from typing import Any

import botocore.exceptions
import pytest

from cloudtune.errors import AuthError, CapacityError, CloudtuneError, NotFoundError, QuotaError, RejectedError
from cloudtune.providers.aws.limits import violations
from cloudtune.providers.aws.tables import error_from
from tests.standins.aws_jobs import World


def refused(world: World, body: dict[str, Any]) -> tuple[str, str]:
    """Code and sentence of the service's refusal; no job is left."""
    before = len(world.cloud.jobs())
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        world.create(body)
    assert len(world.cloud.jobs()) == before
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def ours(code: str, message: str) -> type[CloudtuneError]:
    return type(error_from(code, message))


UNKNOWN_TYPE = {"InstanceType": "ml.q1.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
MANY_TAGS = [{"Key": f"k{number}", "Value": "v"} for number in range(51)]
AT_MOST = "Member must have length less than or equal to"
TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"TrainingJobName": "a_b"}, "at 'trainingJobName' failed to satisfy constraint: Member must satisfy regular expression"),
    "long name": ({"TrainingJobName": "a" * 64}, f"at 'trainingJobName' failed to satisfy constraint: {AT_MOST} 63"),
    "type": ({"ResourceConfig": UNKNOWN_TYPE}, "at 'resourceConfig.instanceType' failed to satisfy constraint: Member must satisfy enum"),
    "role": ({"RoleArn": "arn:aws:iam::123456789012:user/somebody"}, "at 'roleArn' failed to satisfy constraint"),
    "runtime": ({"StoppingCondition": {"MaxRuntimeInSeconds": 29 * 86_400}}, "Member must have value less than or equal to 2419200"),
    "environment": ({"Environment": {"A": "x" * 513}}, f"Map values must satisfy constraint: [{AT_MOST} 512"),
    "hyperparameter": ({"HyperParameters": {"recipe": "x" * 2501}}, f"Map values must satisfy constraint: [{AT_MOST} 2500"),
    "tags": ({"Tags": MANY_TAGS}, f"at 'tags' failed to satisfy constraint: {AT_MOST} 50"),
    "tag": ({"Tags": [{"Key": "a key", "Value": "v;w"}]}, "at 'tags.1.member.value' failed to satisfy constraint"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_limits_of_members(scripted: World, case: str):
    changes, words = TOO_MUCH[case]
    body = {**scripted.body("limits"), **changes}
    code, message = refused(scripted, body)
    assert code == "ValidationException"
    assert message.startswith("1 validation error detected: Value ")
    assert words in message
    if case != "hyperparameter":  # which we never send
        assert violations(body) != ()


BETWEEN: dict[str, tuple[dict[str, Any], str]] = {
    "wait without spot": ({"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}}, "Invalid MaxWaitTimeInSeconds"),
    "spot without wait": ({"EnableManagedSpotTraining": True}, "must be present and be greater than or equal to MaxRuntimeInSeconds"),
    "wait too short": (
        {"EnableManagedSpotTraining": True, "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3599}},
        "must be present and be greater than or equal to MaxRuntimeInSeconds",
    ),
    "no stopping condition": ({"StoppingCondition": None}, "Value null at 'stoppingCondition'"),
    "no machine": ({"ResourceConfig": {"InstanceCount": 1, "VolumeSizeInGB": 30}}, "One of InstanceType, InstanceGroups or"),
    "a key for a disk of its own": (
        {"ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30, "VolumeKmsKeyId": "key"}},
        "VolumeKmsKeyId is not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_rules_between_members(scripted: World, case: str):
    changes, words = BETWEEN[case]
    code, message = refused(scripted, scripted.body("rules", **changes))
    assert code == "ValidationException"
    assert words in message


@pytest.mark.parametrize(
    "member", [{"KeepAlivePeriodInSeconds": 600}, {"InstancePreferences": [{"InstanceType": "ml.g5.xlarge"}], "InstanceType": None}]
)
def test_spot_shuts_out(scripted: World, member: dict[str, Any]):
    body = scripted.spot("excluded")
    resources = {**body["ResourceConfig"], **member}
    body["ResourceConfig"] = {key: value for key, value in resources.items() if value is not None}
    code, message = refused(scripted, body)
    assert code == "ValidationException"
    assert "is not supported with EnableManagedSpotTraining" in message
    assert violations(body) != ()


def test_a_name_is_taken_once(scripted: World):
    scripted.create(scripted.body("taken"))
    code, message = refused(scripted, scripted.body("taken"))
    assert code == "ResourceInUse"
    assert "already exists (arn:aws:sagemaker:us-east-1:123456789012:training-job/taken)" in message
    assert ours(code, message) is RejectedError


def test_the_role_must_exist_and_trust_the_service(scripted: World):
    code, message = refused(scripted, scripted.body("role", RoleArn="arn:aws:iam::123456789012:role/nobody"))
    assert (code, ours(code, message)) == ("ValidationException", AuthError)
    iam = scripted.client("iam")
    statement = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": statement})
    arn = iam.create_role(RoleName="for-ec2", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    code, message = refused(scripted, scripted.body("role", RoleArn=arn))
    assert message.startswith(
        f"Could not assume role {arn}. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com'"
    )


def test_the_caller_must_be_allowed_to_pass_the_role(scripted: World):
    scripted.cloud.account.may_pass_role = False
    code, message = refused(scripted, scripted.body("pass"))
    assert code == "AccessDeniedException"
    assert "is not authorized to perform: iam:PassRole on resource" in message
    assert ours(code, message) is AuthError


def test_a_channel_without_objects_is_refused(scripted: World):
    body = scripted.body("empty")
    body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = f"s3://{scripted.cloud.bucket}/nothing-here/"
    code, message = refused(scripted, body)
    assert code == "ValidationException"
    assert "No S3 objects found under S3 URL" in message


def test_quotas_count_what_runs(scripted: World):
    quota = "ml.g5.xlarge for training job usage"
    scripted.cloud.account.quotas[quota] = 1
    scripted.create(scripted.body("first"))
    scripted.create(scripted.spot("spot-has-its-own"))
    code, message = refused(scripted, scripted.body("second"))
    assert code == "ResourceLimitExceeded"
    assert message.startswith(f"The account-level service limit '{quota}' is 1 Instances, with current utilization of 1 Instances and a ")
    assert ours(code, message) is QuotaError
    scripted.cloud.finish("first")
    scripted.create(scripted.body("second"))


def test_a_type_that_the_region_does_not_have(scripted: World):
    scripted.cloud.account.not_here.add("ml.g5.xlarge")
    code, message = refused(scripted, scripted.body("elsewhere"))
    assert (code, message) == ("ResourceLimitExceeded", "The requested resource training-job/ml.g5.xlarge is not available in this region")
    assert ours(code, message) is CapacityError


def test_an_unknown_job_and_an_ended_one(scripted: World):
    for call in (scripted.sagemaker.describe_training_job, scripted.sagemaker.stop_training_job):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(TrainingJobName="nobody")
        error = caught.value.response["Error"]
        assert ours(error["Code"], error["Message"]) is NotFoundError
    scripted.create(scripted.body("over"))
    scripted.sagemaker.stop_training_job(TrainingJobName="over")
    with pytest.raises(botocore.exceptions.ClientError, match="is in status Stopped"):
        scripted.sagemaker.stop_training_job(TrainingJobName="over")
    scripted.sagemaker.delete_training_job(TrainingJobName="over")
    scripted.create(scripted.body("over"))
    assert len(scripted.cloud.jobs("over")) == 2
