"""A job's life at SageMaker's stand-in, through the verbs: upload, log, interruption, stop, failure, and the way home.

The real boto3 speaks to the stand-in, the job's own bundle runs as processes; only its trainer is a stand-in too.
"""

from __future__ import annotations

import time

import pytest

from cloudtune.errors import AuthError, JobFailed, StagingError
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.aws.bucket import LIFECYCLE
from cloudtune.standins.aws.account import Quirks
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import failure, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import track
from tests import aws_life
from tests.cloud_clock import HurriedClock


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud")
    with AwsStandin.start(folder, account=aws_life.quick_account(), bucket="") as cloud:
        yield cloud


@pytest.fixture
def cloud(running_cloud, monkeypatch):
    running_cloud.account.quirks = Quirks()
    running_cloud.faults.clear()
    for name, value in running_cloud.environment.items():
        monkeypatch.setenv(name, value)
    return running_cloud


def s3(session):
    return session.place("aws").jobs._regions.login("us-east-1").client("s3")


def await_line(session, job, text, seconds=60):
    """Follow the log until a line has ``text``."""
    deadline = time.monotonic() + seconds
    for page in logs(job, session=session, follow=True):
        if any(text in line.text for line in page.lines):
            return
        assert time.monotonic() < deadline, f"no line with {text!r}"
    raise AssertionError(f"the log ended without {text!r}")


def test_a_spot_job_is_interrupted_goes_on_and_its_results_come_home(cloud, tmp_path):
    said = []
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "8", "--pause", "0.2"]) as session:
        view = launch(aws_life.plan(tmp_path, purchase="spot"), session=session, progress=said.append)
        assert str(view.ref) == f"aws://us-east-1/{view.id}"
        await_line(session, view.id, "step 2 of 8")
        cloud.interrupt(view.id)
        seen = [each.state for each in track(view.id, session=session, interval=0.1)]
        assert seen[-1] is JobState.SUCCEEDED
        lines = [line for page in logs(view.id, session=session) for line in page.lines]
        texts = [line.text for line in lines]
        assert any("resuming from step" in text for text in texts)
        steps = [text for text in texts if text.startswith("step ")]
        assert steps == [f"step {n} of 8" for n in range(1, 9)], "each step's line once, in order, over both attempts"
        assert [line.at for line in lines] == sorted(line.at for line in lines)
        assert {line.stream for line in lines} == {"algo-1"}
        done = collect(view.id, session=session, to=tmp_path / "out")
        assert (tmp_path / "out" / "adapter" / "adapter.safetensors").read_bytes() == b"weights" * 1000
        assert (done.partial, done.manifest.outcome) == (False, "complete")
        assert status(view.id, session).state is JobState.COLLECTED
    assert "making the bucket" in " ".join(said)


def test_the_bucket_that_is_made_is_closed_encrypted_and_kept_tidy(cloud, tmp_path):
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1"]) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        bucket = "sagemaker-cloudtune-123456789012-us-east-1"
        client = s3(session)
        blocked = client.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        assert blocked == dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        assert {rule["ID"] for rule in rules} == {rule["ID"] for rule in LIFECYCLE["Rules"]}
        assert client.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        for _ in track(view.id, session=session, interval=0.1):
            pass


def test_what_is_there_already_is_not_sent_again(cloud, tmp_path):
    """Code, data and orders are uploaded once; changed data alone goes up the second time."""
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1", "--say", "unique"]) as session:
        cloud.faults.calls.clear()
        launch(aws_life.plan(tmp_path), session=session)
        first = cloud.faults.calls["PutObject"]
        assert first >= 3
        launch(aws_life.plan(tmp_path), session=session)
        assert cloud.faults.calls["PutObject"] == first
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write('{"prompt": "one more", "completion": "row"}\n')
        launch(aws_life.plan(tmp_path), session=session)
        assert cloud.faults.calls["PutObject"] == first + 2, "the rows, and the orders that hold their digest"


def test_a_stopped_job_leaves_what_it_saved(cloud, tmp_path):
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1000", "--pause", "0.1"]) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        await_line(session, view.id, "step 2 of")
        assert stop(view.id, session=session).state is JobState.STOPPED
        assert stop(view.id, session=session).state is JobState.STOPPED
        done = collect(view.id, session=session, to=tmp_path / "out")
        assert done.partial
        assert done.manifest.outcome == "interrupted"
        assert (tmp_path / "out" / "adapter" / "adapter.safetensors").exists()


def test_a_failed_job_says_why_and_gives_log_metrics_and_its_checkpoints(cloud, tmp_path):
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "9", "--fail-at", "3"]) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        last = [each for each in track(view.id, session=session, interval=0.1)][-1]  # noqa: C416
        assert last.state is JobState.FAILED
        assert last.message.startswith("the trainer failed: the data ran dry")
        found = failure(last)
        assert isinstance(found, JobFailed)
        assert "step 3 of 9" in found.log_tail
        done = collect(view.id, session=session, to=tmp_path / "out")
        assert done.partial
        assert set(done.files) >= {"log.txt", "metrics.jsonl"}
        assert "step 3 of 9" in (tmp_path / "out" / "log.txt").read_text()
        assert [entry.path for entry in done.left_there] == ["checkpoints/step"]
        done = collect(view.id, session=session, to=tmp_path / "out", checkpoints=True)
        assert done.left_there == ()
        assert (tmp_path / "out" / "checkpoints" / "step").read_text() == "2"


def test_progress_is_read_from_the_log(cloud, tmp_path):
    lines = ["load · step 0/40", "train · step 5/40 · loss 1.2345 · rate 0.0002 · tokens/s 850 · 3 min 05 s left"]
    clock = HurriedClock()  # a running job's log is looked at every ten seconds
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "100", "--pause", "0.1", "--say", *lines], clock) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        for each in track(view.id, session=session, interval=1.0):
            if each.progress is not None:
                break
        assert each.state is JobState.RUNNING
        assert (each.progress.step, each.progress.total_steps, each.progress.loss) == (5, 40, 1.2345)
        assert (each.progress.tokens_per_second, each.progress.eta_seconds) == (850.0, 185.0)
        stop(view.id, session=session)


def test_late_streams_and_gaps_lose_nothing_that_is_there(cloud, tmp_path):
    cloud.account.quirks.late_streams = 1.0
    cloud.account.quirks.log_gaps = 7
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "30", "--pause", "0.05"]) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        texts = [line.text for page in logs(view.id, session=session, follow=True) for line in page.lines]
        again = [line.text for page in logs(view.id, session=session) for line in page.lines]
    assert texts == again
    steps = [int(text.split()[1]) for text in texts if text.startswith("step ")]
    assert steps == sorted(set(steps))
    assert 20 <= len(steps) < 30


def test_a_reader_who_comes_back_sees_each_line_once(cloud, tmp_path):
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "20", "--pause", "0.05"]) as session:
        view = launch(aws_life.plan(tmp_path), session=session)
        source, cursor, texts = session.place("aws").logs, None, []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            page = source.read(view.ref, cursor)
            texts += [line.text for line in page.lines]
            cursor = page.cursor
            if page.done:
                break
            time.sleep(0.05)
        assert page.done
        assert texts == [line.text for each in logs(view.id, session=session) for line in each.lines]
        assert sum(text.startswith("step ") for text in texts) == 20


def test_an_upload_that_breaks_off_goes_on(cloud, tmp_path):
    """The service fails in the middle of staging: nothing was started, and the next launch sends only what is missing."""
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1", "--say", "other"]) as session:
        cloud.faults.add("PutObject", "access_denied", 1, after=1)
        with pytest.raises(Exception, match="S3 answers"):
            launch(aws_life.plan(tmp_path), session=session, launch_id="broken-off")
        assert cloud.jobs("broken-off") == []
        assert session.ledger.view(LaunchId("broken-off")) is None
        cloud.faults.calls.clear()
        assert launch(aws_life.plan(tmp_path), session=session, launch_id="broken-off").state is JobState.QUEUED
        assert cloud.faults.calls["PutObject"] >= 1


def test_a_named_bucket_that_is_missing_is_said_before_anything_happens(cloud, tmp_path):
    with aws_life.aws_session(tmp_path, cloud, aws_bucket="nobody-has-this") as session:
        with pytest.raises(Exception, match="there is no bucket nobody-has-this") as caught:
            launch(aws_life.plan(tmp_path), session=session)
        assert "CLOUDTUNE_AWS_BUCKET=auto" in caught.value.hint
        assert session.ledger.views() == []


def test_data_that_changes_while_it_is_staged_is_refused(cloud, tmp_path):
    from dataclasses import replace

    from cloudtune.verbs.render import render

    plan = aws_life.plan(tmp_path)
    with aws_life.aws_session(tmp_path, cloud) as session:
        bundle = render(plan)
        (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
        with pytest.raises(StagingError, match="changed while"):
            session.place("aws").stager.stage(replace(bundle), plan, lambda _: None)


@pytest.mark.parametrize("faults", [
    [("GetCallerIdentity", "expired")],
    [("PutObject", "expired")],
    [("CreateTrainingJob", "expired")],
    [("CreateTrainingJob", "lost_reply"), ("CreateTrainingJob", "expired")],
], ids=lambda faults: " ".join(f"{operation} {kind}" for operation, kind in faults))  # fmt: skip
def test_a_login_that_expires_in_the_middle_of_a_launch(cloud, tmp_path, faults):
    """Said at once with exit code 4; after a new login the same command goes on, and there is one job in the end."""
    before = len(cloud.jobs())
    plan = aws_life.plan(tmp_path, name=f"again-{len(faults)}-{faults[0][0][:3].lower()}")
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1"]) as session:
        for operation, kind in faults:
            cloud.faults.add(operation, kind)
        with pytest.raises(AuthError) as caught:
            launch(plan, session=session)
        assert (caught.value.exit_code, caught.value.code) == (4, "login")
        assert "log in" in caught.value.hint
        left = session.ledger.views()
        assert [view.ref for view in left] == ([None] if faults[0][0] == "CreateTrainingJob" else [])
        assert len(cloud.jobs()) - before == len(faults) - 1
    with aws_life.aws_session(tmp_path, cloud, ["--steps", "1"]) as session:
        view = launch(plan, session=session)
        assert [view.id] == [one.id for one in left] or not left
        assert len(session.ledger.views()) == 1
        assert len(cloud.jobs()) - before == 1
        assert list(track(view.id, session=session, interval=0.1))[-1].state is JobState.SUCCEEDED
