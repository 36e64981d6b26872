"""Faults of the stand-in as the real boto3 meets them, in each protocol; the quirks of lists and logs; a server of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import boto3
import botocore.exceptions
import pytest

from cloudtune.errors import AuthError, ThrottledError, UnavailableError
from cloudtune.providers.aws.tables import error_from
from tests.standins.aws_jobs import World

OURS = {
    "throttle": ThrottledError,
    "error500": UnavailableError,
    "error503": UnavailableError,
    "expired": AuthError,
    "access_denied": AuthError,
}
CALLS = {
    "sagemaker": ("ListTrainingJobs", lambda client: client.list_training_jobs()),
    "s3": ("ListObjectsV2", lambda client: client.list_objects_v2(Bucket="sagemaker-cloudtune-123456789012-us-east-1")),
    "sts": ("GetCallerIdentity", lambda client: client.get_caller_identity()),
    "iam": ("GetRole", lambda client: client.get_role(RoleName="cloudtune-job")),
    "logs": ("DescribeLogStreams", lambda client: client.describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")),
    "secretsmanager": ("ListSecrets", lambda client: client.list_secrets()),
    "ecr": ("DescribeRepositories", lambda client: client.describe_repositories()),
    "codebuild": ("ListProjects", lambda client: client.list_projects()),
    "service-quotas": ("ListServiceQuotas", lambda client: client.list_service_quotas(ServiceCode="sagemaker")),
    "pricing": ("GetProducts", lambda client: client.get_products(ServiceCode="AmazonSageMaker")),
}


@pytest.mark.parametrize("service", CALLS)
def test_every_refusal_in_every_protocol(scripted: World, service: str):
    operation, call = CALLS[service]
    client = scripted.client(service)
    call(client)
    for kind, wanted in OURS.items():
        scripted.cloud.faults.add(operation, kind)
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(client)
        error = caught.value.response["Error"]
        assert type(error_from(error["Code"], error["Message"])) is wanted, error
    assert scripted.cloud.faults.calls[operation] == 1 + len(OURS)
    call(client)


def test_the_kinds_of_silence(scripted: World):
    client = scripted.sagemaker
    for kind in ("dropped", "lost_reply"):
        scripted.cloud.faults.add("ListTrainingJobs", kind)
        with pytest.raises(botocore.exceptions.ConnectionClosedError):
            client.list_training_jobs()
    scripted.cloud.faults.add("ListTrainingJobs", "malformed")
    # botocore takes what is no JSON for an answer without members: whoever reads it must not count on any.
    assert "TrainingJobSummaries" not in client.list_training_jobs()
    scripted.cloud.faults.add("ListTrainingJobs", "silent")
    began = time.monotonic()
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        client.list_training_jobs()
    assert 4 < time.monotonic() - began < 15


def test_a_lost_reply_leaves_the_job_and_the_retry_meets_it(scripted: World):
    scripted.cloud.faults.add("CreateTrainingJob", "lost_reply")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        scripted.client("sagemaker", attempts=3).create_training_job(**scripted.body("lost"))
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 1
    assert len(scripted.cloud.jobs("lost")) == 1


def test_a_dropped_call_leaves_no_job(scripted: World):
    scripted.cloud.faults.add("CreateTrainingJob", "dropped")
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        scripted.create(scripted.body("dropped"))
    assert scripted.cloud.jobs() == []


def test_botocore_gets_through_a_storm(scripted: World):
    scripted.cloud.faults.add("DescribeTrainingJob", "throttle", 2)
    scripted.create(scripted.body("storm"))
    found = scripted.client("sagemaker", attempts=4).describe_training_job(TrainingJobName="storm")
    assert found["ResponseMetadata"]["RetryAttempts"] == 2


def test_uploads_fail_in_the_middle(scripted: World):
    scripted.cloud.faults.add("PutObject", "error503", after=1)
    put = scripted.s3.put_object
    put(Bucket=scripted.cloud.bucket, Key="a", Body=b"x" * 100_000)
    with pytest.raises(botocore.exceptions.ClientError, match="ServiceUnavailable"):
        put(Bucket=scripted.cloud.bucket, Key="b", Body=b"x" * 100_000)
    assert scripted.keys("a") == ["a"]
    assert scripted.keys("b") == []


def names(page: dict) -> list[str]:
    return [one["TrainingJobName"] for one in page["TrainingJobSummaries"]]


def test_lists_cut_pages_before_they_look_at_the_status(scripted: World):
    for number in range(5):
        scripted.create(scripted.body(f"job-{number}"))
        scripted.cloud.clock.advance(10)
    for number in (0, 1, 3):
        scripted.cloud.finish(f"job-{number}")
    listed = scripted.sagemaker.list_training_jobs
    first = listed(StatusEquals="Completed", MaxResults=2, SortBy="CreationTime", SortOrder="Ascending")
    assert names(first) == ["job-0", "job-1"]
    second = listed(StatusEquals="Completed", MaxResults=2, SortOrder="Ascending", NextToken=first["NextToken"])
    assert names(second) == ["job-3"]
    assert names(listed(StatusEquals="InProgress", MaxResults=1)) == ["job-4"]
    created = scripted.describe("job-4")["CreationTime"]  # the others ended 10 s later
    changed = listed(LastModifiedTimeAfter=created + timedelta(seconds=5), SortBy="Name", SortOrder="Ascending")
    assert names(changed) == ["job-0", "job-1", "job-3"]
    assert names(listed(NameContains="b-4")) == ["job-4"]


def test_a_page_may_be_empty_and_have_a_token(scripted: World):
    scripted.cloud.account.quirks.empty_pages = True
    scripted.create(scripted.body("hidden"))
    pages = list(scripted.sagemaker.get_paginator("list_training_jobs").paginate())
    assert [names(page) for page in pages] == [[], ["hidden"]]


def test_a_list_may_lag_behind(scripted: World):
    scripted.cloud.account.quirks.list_lag = 30
    scripted.create(scripted.body("new"))
    assert names(scripted.sagemaker.list_training_jobs()) == []
    assert scripted.describe("new")["TrainingJobStatus"] == "InProgress"
    scripted.cloud.clock.advance(31)
    assert names(scripted.sagemaker.list_training_jobs()) == ["new"]


def test_words_and_numbers_that_are_not_there(scripted: World):
    quirks = scripted.cloud.account.quirks
    scripted.create(scripted.body("strange"))
    quirks.unknown_secondary, quirks.late_billable = "Meditating", True
    assert scripted.describe("strange")["SecondaryStatus"] == "Meditating"
    scripted.cloud.finish("strange")
    found = scripted.describe("strange")
    assert found["SecondaryStatus"] == "Completed"
    assert "BillableTimeInSeconds" not in found


def test_logs_come_late_and_with_gaps(aws: World):
    quirks = aws.cloud.account.quirks
    quirks.late_streams, quirks.log_gaps = 1e6, 3  # late: with the end of the job
    aws.create(aws.body("late", env={"STEPS": "40", "PAUSE": "0.05"}))
    aws.until("late", lambda found: found["SecondaryStatus"] == "Training")
    assert aws.streams("late") == []
    aws.end("late")
    lines = aws.lines("late")
    assert len(lines) == 41 - 13
    assert "step 2" not in lines


def test_the_stand_in_is_also_a_program_of_its_own(tmp_path: Path):
    command = [sys.executable, "-m", "cloudtune.standins.aws", "--folder", str(tmp_path / "cloud"), "--mode", "scripted", "--with-parent"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        environ = json.loads(program.stdout.readline())
        session = boto3.Session(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], region_name=environ["AWS_REGION"])
        client = session.client("sagemaker", endpoint_url=environ["AWS_ENDPOINT_URL"])
        assert client.list_training_jobs()["TrainingJobSummaries"] == []
        client.close()
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    finally:
        program.kill()
        program.communicate()
