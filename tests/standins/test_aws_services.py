"""The other services and rarer knobs: quotas, prices, builds, tags, search, warm pools, sold-out machines, several machines, secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from cloudtune.offers.lookup import load_offers
from cloudtune.standins.aws.machines import DataError, Machines
from cloudtune.standins.container import ContainerRunner
from tests.standins.aws_jobs import World

NAME = "ml.g5.2xlarge for training job usage"


def test_quotas_are_listed_read_and_asked_for(scripted: World):
    scripted.cloud.account.quotas[NAME] = 0
    client = scripted.client("service-quotas")
    pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    listed = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    assert len(listed) == 3 * 225
    assert (listed[NAME]["QuotaCode"], listed[NAME]["Value"]) == ("L-2D6DEB3C", 0.0)
    scripted.cloud.account.quotas[NAME] = 3
    assert client.get_service_quota(ServiceCode="sagemaker", QuotaCode="L-2D6DEB3C")["Quota"]["Value"] == 3.0
    assert client.get_aws_default_service_quota(ServiceCode="sagemaker", QuotaCode="L-2D6DEB3C")["Quota"]["Value"] == 0.0
    asked = {"ServiceCode": "sagemaker", "QuotaCode": "L-2D6DEB3C", "DesiredValue": 4.0}
    assert client.request_service_quota_increase(**asked)["RequestedQuota"]["Status"] == "PENDING"
    with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
        client.request_service_quota_increase(**asked)
    with pytest.raises(client.exceptions.NoSuchResourceException):
        client.get_service_quota(ServiceCode="sagemaker", QuotaCode="L-00000000")


def test_prices_are_those_of_our_table(scripted: World):
    wanted = {"regionCode": "us-east-1", "component": "Training", "instanceName": "ml.g5.2xlarge"}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    found = scripted.client("pricing").get_products(ServiceCode="AmazonSageMaker", Filters=filters)["PriceList"]
    assert len(found) == 1
    (term,) = json.loads(found[0])["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    (price,) = [offer.usd_per_hour for offer in load_offers("aws") if offer.instance == "ml.g5.2xlarge" and offer.purchase == "on_demand"
                and offer.region == "us-east-1"]  # fmt: skip
    assert float(dimension["pricePerUnit"]["USD"]) == price


def test_builds_take_a_while_and_can_fail(scripted: World):
    client = scripted.client("codebuild")
    role = "arn:aws:iam::123456789012:role/builder"
    source = {"type": "S3", "location": f"{scripted.cloud.bucket}/context.zip"}
    machine = {"type": "LINUX_CONTAINER", "image": "aws/codebuild/standard:7.0", "computeType": "BUILD_GENERAL1_MEDIUM"}
    client.create_project(name="cloudtune-image", source=source, artifacts={"type": "NO_ARTIFACTS"}, environment=machine, serviceRole=role)
    scripted.cloud.builds.failing = 1
    for expected in ("FAILED", "SUCCEEDED"):
        build = client.start_build(projectName="cloudtune-image")["build"]
        seen = [client.batch_get_builds(ids=[build["id"]])["builds"][0] for _ in range(2)]
        assert [one["buildStatus"] for one in seen] == ["IN_PROGRESS", expected]
        contexts = [context["message"] for phase in seen[1]["phases"] for context in phase.get("contexts") or ()]
        assert bool(contexts) == (expected == "FAILED")


def test_tags_and_search(scripted: World):
    scripted.create(scripted.body("tagged", Tags=[{"Key": "cloudtune:launch-id", "Value": "a"}]))
    scripted.create(scripted.body("other", Tags=[{"Key": "cloudtune:launch-id", "Value": "b"}]))
    arn = scripted.describe("tagged")["TrainingJobArn"]
    scripted.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "more", "Value": "1"}])
    assert {tag["Key"]: tag["Value"] for tag in scripted.sagemaker.list_tags(ResourceArn=arn)["Tags"]} == {
        "cloudtune:launch-id": "a",
        "more": "1",
    }
    scripted.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["more"])

    def found(name: str, operator: str, value: str | None = None) -> list[str]:
        one = {"Name": name, "Operator": operator, **({"Value": value} if value is not None else {})}
        answer = scripted.sagemaker.search(Resource="TrainingJob", SearchExpression={"Filters": [one]})
        return [result["TrainingJob"]["TrainingJobName"] for result in answer["Results"]]

    assert found("Tags.cloudtune:launch-id", "Equals", "b") == ["other"]
    assert found("Tags.cloudtune:launch-id", "Exists") == ["tagged", "other"]
    assert found("TrainingJobName", "Contains", "tag") == ["tagged"]
    assert found("Tags.more", "Exists") == []


def test_a_warm_pool_waits_is_reused_and_lapses(scripted: World):
    def pooled(name: str) -> dict[str, Any]:
        body = scripted.body(name)
        body["ResourceConfig"]["KeepAlivePeriodInSeconds"] = 600
        return body

    def pool(name: str) -> dict[str, Any]:
        return dict(scripted.describe(name).get("WarmPoolStatus", {}))

    scripted.create(pooled("without-a-quota"))
    scripted.cloud.finish("without-a-quota")
    assert pool("without-a-quota") == {}
    scripted.cloud.account.warm_pool_quota = 1
    scripted.create(pooled("first"))
    scripted.cloud.finish("first")
    assert pool("first") == {"Status": "Available"}
    scripted.cloud.clock.advance(100)
    scripted.create(pooled("second"))
    assert pool("first") == {"Status": "Reused", "ReusedByJob": "second", "ResourceRetainedBillableTimeInSeconds": 100}
    scripted.cloud.finish("second")
    scripted.sagemaker.update_training_job(TrainingJobName="second", ResourceConfig={"KeepAlivePeriodInSeconds": 0})
    assert pool("second")["Status"] == "Terminated"
    scripted.create(pooled("third"))
    scripted.cloud.finish("third")
    scripted.cloud.clock.advance(601)
    assert pool("third") == {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 600}


def test_sold_out_machines_wait_and_give_up(aws: World):
    aws.cloud.account.sold_out.add("ml.g5.xlarge")
    aws.create(aws.body("waits", StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxPendingTimeInSeconds": 7200}))
    found = aws.until("waits", lambda found: found["SecondaryStatus"] == "Pending")
    assert found["SecondaryStatusTransitions"][-1]["StatusMessage"].startswith("Insufficient capacity error from EC2")
    assert "TrainingStartTime" not in found
    for _ in range(4):
        aws.cloud.clock.advance(2000)
        time.sleep(0.1)
    found = aws.end("waits")
    assert found["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute capacity")
    assert "BillableTimeInSeconds" not in found


def test_the_first_type_that_can_be_had_is_taken(aws: World):
    aws.cloud.account.sold_out.add("ml.g5.xlarge")
    preferred = [{"InstanceType": "ml.g5.xlarge"}, {"InstanceType": "ml.g6.xlarge"}]
    aws.create(aws.body("chosen", ResourceConfig={"InstancePreferences": preferred, "InstanceCount": 1, "VolumeSizeInGB": 30}))
    found = aws.end("chosen")
    assert (found["ResourceConfig"]["SelectedInstanceType"], found["ResourceConfig"]["SelectedInstanceCount"]) == ("ml.g6.xlarge", 1)


def test_several_machines_know_each_other(aws: World):
    aws.put_program(
        "import json, os, socket\nroot = os.environ['CLOUDTUNE_ROOT']\n"
        "me = json.load(open(root + '/input/config/resourceconfig.json'))\n"
        "socket.getaddrinfo(me['hosts'][0], 29400)\n"
        "print(me['current_host'], me['hosts'], me['current_instance_type'], flush=True)\n"
        "open(f\"{root}/model/{me['current_host']}\", 'w').write('x')\n"
        "open(f\"{root}/checkpoints/{me['current_host']}\", 'w').write('x')\n"
    )
    aws.create(aws.body("pair", ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}))
    assert aws.end("pair")["TrainingJobStatus"] == "Completed"
    hosts = "['127.0.0.1', '127.0.0.2'] ml.g5.xlarge"
    assert sorted(aws.lines("pair")) == [f"127.0.0.1 {hosts}", f"127.0.0.2 {hosts}"]
    assert [stream.split("/")[1].rpartition("-")[0] for stream in sorted(aws.streams("pair"))] == ["algo-1", "algo-2"]
    assert aws.keys("jobs/pair/output/model/") == [f"jobs/pair/output/model/127.0.0.{number}" for number in (1, 2)]
    assert len(aws.keys("jobs/pair/checkpoints/")) == 2


def test_a_job_reads_its_secret_with_the_roles_own_login(aws: World):
    aws.client("secretsmanager").create_secret(Name="cloudtune/token", SecretString="hf_from_the_manager")
    aws.put_program(
        "import os, boto3\nassert 'AWS_ACCESS_KEY_ID' not in os.environ\n"
        "print(boto3.client('secretsmanager').get_secret_value(SecretId='cloudtune/token')['SecretString'], flush=True)\n"
    )
    aws.create(aws.body("secret", env={"AWS_DEFAULT_REGION": "us-east-1"}))  # as our request has it: the platform sets AWS_REGION only
    assert aws.end("secret")["TrainingJobStatus"] == "Completed", aws.lines("secret")[-3:]
    assert aws.lines("secret") == ["hf_from_the_manager"]


def test_a_full_disk_takes_the_results(aws: World):
    aws.cloud.account.quirks.disk_full = True
    aws.create(aws.body("full"))
    assert aws.end("full")["FailureReason"] == "ClientError: Artifact upload failed:Insufficient disk space"


def test_spot_that_does_not_come_in_time(aws: World):
    aws.cloud.account.sold_out.add("spot ml.g5.xlarge")
    aws.create(aws.spot("never"))
    aws.until("never", lambda found: found["SecondaryStatus"] == "Pending")
    for _ in range(3):
        aws.cloud.clock.advance(7200)
        time.sleep(0.1)
    found = aws.end("never")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")


def test_times_are_the_clouds_own(scripted: World):
    scripted.create(scripted.body("times"))
    before = scripted.describe("times")["CreationTime"]
    scripted.cloud.clock.advance(3600)
    scripted.cloud.finish("times", "Failed", "AlgorithmError: no")
    found = scripted.describe("times")
    said = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"]).replace(tzinfo=UTC)
    assert abs((said - found["TrainingEndTime"]).total_seconds()) < 60
    assert found["TrainingEndTime"] - before >= timedelta(hours=1)
    assert found["TrainingTimeInSeconds"] >= 3600
    assert found["FailureReason"] == "AlgorithmError: no"


def test_what_the_stand_in_does_not_know_is_said(scripted: World):
    with pytest.raises(botocore.exceptions.ClientError, match="not part of this stand-in"):
        scripted.sagemaker.list_endpoints()


def test_what_moto_does_not_know_is_said_in_the_services_protocol(scripted: World):
    with pytest.raises(botocore.exceptions.ClientError, match="not part of this stand-in"):
        scripted.client("iam").simulate_custom_policy(PolicyInputList=["{}"], ActionNames=["s3:GetObject"])


def test_the_users_rights_can_be_asked_for(scripted: World):
    account = scripted.cloud.account
    account.may_pass_role = False
    account.denied.add("logs:GetLogEvents")
    account.forbidden.add("s3:GetObject")
    asked = ["iam:PassRole", "sagemaker:CreateTrainingJob", "logs:GetLogEvents", "s3:GetObject"]
    arn = "arn:aws:iam::123456789012:user/rehearsal"
    answer = scripted.client("iam").simulate_principal_policy(PolicySourceArn=arn, ActionNames=asked, ResourceArns=["*"])
    decisions = {one["EvalActionName"]: one["EvalDecision"] for one in answer["EvaluationResults"]}
    assert decisions == dict(zip(asked, ["implicitDeny", "allowed", "implicitDeny", "explicitDeny"], strict=True))


def test_an_upload_that_is_not_what_its_digest_says_is_refused(scripted: World):
    put, bucket = scripted.s3.put_object, scripted.cloud.bucket
    right, wrong = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (b"weights", b"other"))
    put(Bucket=bucket, Key="checked", Body=b"weights", ChecksumSHA256=right)
    for digest in ({"ChecksumSHA256": wrong}, {"ContentMD5": base64.b64encode(b"0" * 16).decode()}):
        with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
            put(Bucket=bucket, Key="spoilt", Body=b"weights", **digest)
    upload = scripted.s3.create_multipart_upload(Bucket=bucket, Key="parts", ChecksumAlgorithm="SHA256")["UploadId"]
    with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
        scripted.s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"weights", ChecksumSHA256=wrong)
    assert scripted.keys("checked") == ["checked"]
    assert scripted.keys("spoilt") == scripted.keys("parts") == []
    assert scripted.s3.get_object(Bucket=bucket, Key="checked")["Body"].read() == b"weights"


def test_several_machines_in_containers_are_refused_instead_of_waiting_for_each_other(scripted: World, tmp_path: Path):
    scripted.create(scripted.body("boxes", ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}))
    (record,) = scripted.cloud.jobs("boxes")
    with pytest.raises(DataError, match="as plain processes only"):
        Machines(record, tmp_path, ContainerRunner("unix:///nowhere"), scripted.s3, {}).lay_out()
