"""SageMaker keeps the laws of a JobService, through the real boto3; and what only a cloud can do to a launcher."""

from __future__ import annotations

import time

import pytest

from cloudtune.errors import AuthError, CloudtuneError, QuotaError, StoreError, ThrottledError, UnavailableError
from cloudtune.job import JobRef, JobState, LaunchId
from cloudtune.providers.aws.limits import violations
from cloudtune.standins.aws.account import Account
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.wire.s3 import Bucket
from cloudtune.wire.upload import Upload, describe, upload_all
from tests.contract.aws_world import AwsWorld
from tests.contract.job_service import JobServiceLaws, wait_for


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory):
    with AwsStandin.start(tmp_path_factory.mktemp("cloud"), mode="scripted") as cloud:
        yield cloud


@pytest.fixture
def cloud(running_cloud, monkeypatch):
    """The module's stand-in as good as new: starting one for each test would take most of the time."""
    fresh = Account(quota=1000)
    for name in ("quota", "quotas", "quirks"):
        setattr(running_cloud.account, name, getattr(fresh, name))
    running_cloud.faults.clear()
    running_cloud.faults.calls.clear()
    running_cloud.sagemaker.records.clear()
    running_cloud.sagemaker.accepted.clear()
    for name, value in running_cloud.environment.items():
        monkeypatch.setenv(name, value)
    return running_cloud


@pytest.fixture
def world(tmp_path, cloud):
    return AwsWorld(tmp_path, cloud)


class TestAwsJobs(JobServiceLaws):
    pass


def test_the_request_is_one_that_the_service_takes(world):
    request = world.request("whole-abc")
    assert violations(request.body) == ()
    ref = world.service.submit(request)
    assert str(ref) == "aws://us-east-1/whole-abc"
    reading = world.service.poll([ref])[0]
    assert (reading.state, reading.native_state) == (JobState.RUNNING, "InProgress/Training")
    assert reading.remains == f"s3://{world.cloud.bucket}/cloudtune/jobs/whole-abc/"
    assert reading.outputs == f"{reading.remains}output/model/"


@pytest.mark.parametrize("kind", ["throttle", "error500", "error503", "dropped"])
def test_a_storm_that_passes_is_weathered(world, kind):
    """Fewer failures than a call has attempts: nobody hears of them."""
    world.cloud.faults.add("CreateTrainingJob", kind, 2)
    ref = world.service.submit(world.request("storm-abc"))
    world.cloud.faults.add("DescribeTrainingJob", kind, 2)
    assert world.service.poll([ref])[0].state is JobState.RUNNING
    assert world.count_jobs("storm-abc") == 1


@pytest.mark.parametrize(("kind", "error"), [("throttle", ThrottledError), ("error503", UnavailableError), ("dropped", UnavailableError)])
def test_a_storm_that_stays_is_worth_another_try_later(world, kind, error):
    ref = world.service.submit(world.request("storm-abc"))
    world.cloud.faults.add("DescribeTrainingJob", kind, None)
    with pytest.raises(error) as caught:
        world.service.poll([ref])
    assert caught.value.retryable
    world.cloud.faults.clear()
    assert world.service.poll([ref])[0].state is JobState.RUNNING


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_an_answer_that_is_lost_after_acceptance_starts_no_second_job(world, lost):
    """Lost once or at every attempt: botocore tries again, the name is taken, and the nonce says that it is ours."""
    world.cloud.faults.add("CreateTrainingJob", "lost_reply", lost)
    request = world.request("lost-abc")
    ref = world.service.submit(request)
    assert ref == JobRef("aws", "us-east-1", "lost-abc")
    world.cloud.faults.clear()
    assert world.service.submit(request) == ref
    assert world.count_jobs("lost-abc") == 1


@pytest.mark.parametrize("kind", ["throttle", "error500", "error503", "dropped"])
def test_an_answer_that_is_lost_after_acceptance_is_settled_however_the_next_tries_end(world, kind):
    """Also when the last word is that there were too many calls: the first one may have been heard."""
    world.cloud.faults.add("CreateTrainingJob", "lost_reply", 1)
    world.cloud.faults.add("CreateTrainingJob", kind, None)
    assert world.service.submit(world.request("lost-abc")) == JobRef("aws", "us-east-1", "lost-abc")
    assert world.count_jobs("lost-abc") == 1


def test_a_launch_that_never_arrived_is_an_error_and_no_job(world):
    world.cloud.faults.add("CreateTrainingJob", "dropped", None)
    with pytest.raises(UnavailableError):
        world.service.submit(world.request("never-abc"))
    assert world.service.find(LaunchId("never-abc")) is None
    assert world.count_jobs("never-abc") == 0


def test_somebody_elses_job_of_that_name_is_not_ours(world):
    request = world.request("theirs-abc")
    foreign = {**request.body, "Environment": {"X": "1"}, "Tags": []}
    world.regions.login("us-east-1").client("sagemaker").create_training_job(**foreign)
    assert world.service.find(LaunchId("theirs-abc")) is None
    with pytest.raises(CloudtuneError) as caught:
        world.service.submit(request)
    assert caught.value.code == "launch-id-taken"
    assert world.service.inventory() == []


def test_a_crashed_launcher_is_found_in_its_region_without_any_setting(world, monkeypatch):
    """The region is written down before the call; a later process without a setting or a default looks there."""
    world.service.submit(world.request("far-abc"))
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name)
    later = AwsWorld(world.folder, world.cloud)
    assert later.service.find(LaunchId("far-abc")) == JobRef("aws", "us-east-1", "far-abc")


def test_a_login_that_expires_while_polling_is_said_and_the_next_one_goes_on(world, monkeypatch, tmp_path):
    """The same objects go on after a new login: the old session is thrown away, and the file is read again."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = x\naws_session_token = old\n")
    world = AwsWorld(world.folder, world.cloud)
    refs = [world.service.submit(world.request(f"login-{letter}")) for letter in "abc"]
    assert {reading.state for reading in world.service.poll(refs)} == {JobState.RUNNING}
    world.cloud.faults.add("ListTrainingJobs", "expired")
    with pytest.raises(AuthError) as caught:
        world.service.poll(refs)
    assert "log in" in caught.value.hint
    assert not caught.value.retryable
    calls = world.cloud.faults.calls["ListTrainingJobs"]
    file.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = x\naws_session_token = new\n")
    world.cloud.finish("login-b")
    assert [reading.state for reading in world.service.poll(refs)] == [JobState.RUNNING, JobState.SUCCEEDED, JobState.RUNNING]
    after = world.regions.login("us-east-1").client("sagemaker")
    assert after._request_signer._credentials.access_key == "NEW"
    assert world.cloud.faults.calls["ListTrainingJobs"] == calls + 1


def test_only_what_changed_is_described(world):
    refs = [world.service.submit(world.request(f"many-{n:03d}")) for n in range(30)]
    calls = world.cloud.faults.calls
    world.service.poll(refs)
    assert calls["DescribeTrainingJob"] == 30
    assert calls["ListTrainingJobs"] == 0
    for cycle in range(3):
        world.service.poll(refs)
        assert calls["DescribeTrainingJob"] == 30
        assert calls["ListTrainingJobs"] == cycle + 1
    for name in ("many-007", "many-022"):
        world.cloud.finish(name)
    states = [reading.state for reading in world.service.poll(refs)]
    assert [n for n, state in enumerate(states) if state is JobState.SUCCEEDED] == [7, 22]
    assert calls["DescribeTrainingJob"] == 32
    # What has ended is not asked about again, and does not change back.
    ended = [refs[7], refs[22]]
    lists = calls["ListTrainingJobs"]
    assert {reading.state for reading in world.service.poll(ended)} == {JobState.SUCCEEDED}
    assert calls["ListTrainingJobs"] == lists


def test_pages_that_are_empty_and_go_on_are_read_to_the_end(world):
    world.cloud.account.quirks.empty_pages = True
    refs = [world.service.submit(world.request(f"pages-{n:03d}")) for n in range(3)]
    world.service.poll(refs)
    world.cloud.finish("pages-001")
    assert world.service.poll(refs)[1].state is JobState.SUCCEEDED
    assert [ref.name for ref in world.service.inventory()] == ["pages-000", "pages-001", "pages-002"]


def test_a_word_that_we_do_not_know_ends_nothing(world):
    world.cloud.account.quirks.unknown_secondary = "Meditating"
    ref = world.service.submit(world.request("words-abc"))
    reading = world.service.poll([ref])[0]
    assert (reading.state, reading.native_state) == (JobState.UNKNOWN, "InProgress/Meditating")
    assert "Meditating" in reading.message
    world.cloud.account.quirks.unknown_secondary = ""
    assert world.service.poll([ref])[0].state is JobState.RUNNING


def test_a_list_that_lags_does_not_lose_a_new_job(world):
    """DescribeTrainingJob knows a job at once, the list later: nothing here takes the list's silence for an answer."""
    world.cloud.account.quirks.list_lag = 3600.0
    ref = world.service.submit(world.request("lag-abc"))
    for _ in range(3):
        assert world.service.poll([ref])[0].state is JobState.RUNNING
    assert world.service.find(LaunchId("lag-abc")) == ref


def test_a_clock_that_is_wrong_here_misses_no_change(tmp_path, cloud):
    """This machine's wall clock may be years off; what was modified is asked for in the service's own time."""
    from cloudtune.clock import SystemClock

    class Wrong(SystemClock):
        def now(self):
            return super().now().replace(year=2031)

    world = AwsWorld(tmp_path, cloud)
    service = type(world.service)(world.regions, Wrong(), world.logs, least_seconds=0)
    refs = [service.submit(world.request(f"skew-{letter}")) for letter in "ab"]
    service.poll(refs)
    service.poll(refs)
    cloud.finish("skew-a")
    readings = service.poll(refs)
    assert [reading.state for reading in readings] == [JobState.SUCCEEDED, JobState.RUNNING]
    assert all(reading.billable_seconds < 600 for reading in readings)


def test_a_poll_within_the_pause_asks_nobody_unless_we_changed_something(tmp_path, cloud):
    world = AwsWorld(tmp_path, cloud, least_seconds=3600.0)
    refs = [world.service.submit(world.request(f"pause-{letter}")) for letter in "ab"]
    world.service.poll(refs)
    world.service.poll(refs)
    before = cloud.faults.calls.total()
    world.service.poll(refs)
    assert cloud.faults.calls.total() == before
    world.service.stop(refs[0])
    assert [reading.state for reading in world.service.poll(refs)] == [JobState.STOPPED, JobState.RUNNING]


def test_the_message_says_what_a_failure_means_with_the_last_lines_of_the_log(world):
    ref = world.service.submit(world.request("fails-abc"))
    logs = world.regions.login("us-east-1").client("logs")
    stream = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamName": "fails-abc/algo-1-1700000000000"}
    logs.create_log_stream(**stream)
    now = int(time.time() * 1000)
    logs.put_log_events(**stream, logEvents=[{"timestamp": now + n, "message": f"line {n}"} for n in range(30)])
    world.cloud.finish("fails-abc", "Failed", "AlgorithmError: loss is nan, exit code: 1")
    reading = world.service.poll([ref])[0]
    assert (reading.state, reading.exit_code) == (JobState.FAILED, 1)
    first, *rest = reading.message.splitlines()
    assert first.startswith("the trainer failed: loss is nan")
    assert "cloudtune logs fails-abc" in first
    assert rest == [f"line {n}" for n in range(20, 30)]


def test_the_quota_is_named_with_the_way_to_more(tmp_path, cloud):
    cloud.account.quotas["ml.g5.2xlarge for training job usage"] = 0
    world = AwsWorld(tmp_path, cloud)
    with pytest.raises(QuotaError) as caught:
        world.service.submit(world.request("quota-abc"))
    assert "ml.g5.2xlarge for training job usage" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_role_that_cannot_be_taken_on_yet_is_waited_for_and_then_said(tmp_path, cloud):
    """A role that was made a moment ago: three tries, ten seconds apart, on a clock of our own."""
    from cloudtune.clock import VirtualClock

    clock = VirtualClock()
    world = AwsWorld(tmp_path, cloud)
    service = type(world.service)(world.regions, clock, least_seconds=0)
    iam = world.regions.login("us-east-1").client("iam")
    trust = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}'
    )
    iam.create_role(RoleName="untrusting", AssumeRolePolicyDocument=trust)
    world.settings = type(world.settings)(**{**vars(world.settings), "aws_role": "arn:aws:iam::123456789012:role/untrusting"})
    with pytest.raises(AuthError) as caught:
        service.submit(world.request("role-abc"))
    assert caught.value.code == "role-trust"
    assert clock.monotonic() == 20.0
    assert cloud.faults.calls["CreateTrainingJob"] == 3


def test_a_job_of_the_budget_ends_as_stopped_and_says_how_to_get_its_checkpoints(world):
    ref = world.service.submit(world.request("budget-abc"))
    record = world.cloud.sagemaker.records["budget-abc"]
    record.move("MaxRuntimeExceeded", "limit", record.created, status="Stopped")
    reading = world.service.poll([ref])[0]
    assert reading.state is JobState.STOPPED
    assert "cloudtune collect budget-abc" in reading.message


def test_a_file_that_changed_between_its_digest_and_its_upload_is_refused(world, tmp_path):
    """Under the digest of another content it would be taken for that from then on."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"planned")
    size, sha256 = describe(file)
    file.write_bytes(b"swapped")
    bucket = Bucket(world.regions.login("us-east-1"), world.cloud.bucket)
    with pytest.raises(StoreError) as caught:
        upload_all(bucket, [Upload("digest/rows.jsonl", file, size, sha256)], "digest/", lambda _: None)
    assert caught.value.code == "store-digest"
    assert bucket.head("digest/rows.jsonl") is None


def test_memory_does_not_grow_with_jobs_that_nobody_asks_about(world):
    from cloudtune.providers.aws import watch

    refs = [world.service.submit(world.request(f"flat-{n:03d}")) for n in range(4)]
    follower = world.service.watch("us-east-1")
    for n in range(watch.MOST_REMEMBERED + 10):
        follower._seen[f"old-{n}"] = None
    world.service.poll(refs)
    assert follower.remembered <= watch.MOST_REMEMBERED
    assert wait_for(world, refs[0], JobState.RUNNING) is JobState.RUNNING
