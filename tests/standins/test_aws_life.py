"""Jobs of the stand-in SageMaker through the real boto3: they really run, stop, are interrupted, fail, and leave their files."""

from __future__ import annotations

import io
import tarfile

from tests.standins.aws_jobs import World


def words(found: dict) -> list[str]:
    return [one["Status"] for one in found["SecondaryStatusTransitions"]]


def test_a_job_runs_to_its_end(aws: World):
    aws.create(aws.body("plain"))
    found = aws.end("plain")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Completed", "Completed")
    assert words(found) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all(one["EndTime"] >= one["StartTime"] for one in found["SecondaryStatusTransitions"])
    assert found["TrainingStartTime"] <= found["TrainingEndTime"] == found["LastModifiedTime"]
    assert found["Environment"]["STEPS"] == "3"
    assert "Tags" not in found
    assert aws.lines("plain") == ["from 0", "step 1", "step 2", "step 3"]
    home = f"s3://{aws.cloud.bucket}/jobs/plain/output/model/"
    assert found["ModelArtifacts"]["S3ModelArtifacts"] == home
    assert aws.keys("jobs/plain/") == [
        "jobs/plain/checkpoints/step",
        "jobs/plain/output/data/metrics.jsonl",
        "jobs/plain/output/model/weights",
    ]


def test_results_are_packed_where_that_is_asked_for(aws: World):
    aws.create(aws.body("packed", OutputDataConfig={"S3OutputPath": f"s3://{aws.cloud.bucket}/jobs/"}))
    found = aws.end("packed")
    key = "jobs/packed/output/model.tar.gz"
    assert found["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{aws.cloud.bucket}/{key}"
    body = aws.s3.get_object(Bucket=aws.cloud.bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as packed:
        assert packed.getnames() == ["weights"]
    assert "jobs/packed/output/output.tar.gz" in aws.keys("jobs/")


def test_a_spot_job_is_interrupted_and_goes_on_from_its_checkpoint(aws: World):
    aws.create(aws.spot("spot", env={"STEPS": "40", "PAUSE": "0.05"}))
    aws.until_line("spot", "step 5")
    aws.cloud.interrupt("spot")
    aws.until("spot", lambda found: "Interrupted" in words(found))
    found = aws.end("spot")
    assert found["TrainingJobStatus"] == "Completed"
    assert words(found) == [
        "Starting",
        "Downloading",
        "Training",
        "Interrupted",
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    lines = aws.lines("spot")
    assert len(aws.streams("spot")) == 2
    assert "asked to end" in lines
    resumed = int(next(line for line in lines if line.startswith("from ") and line != "from 0").split()[1])
    assert resumed >= 5
    assert [line for line in lines if line.startswith("step ")] == [f"step {number}" for number in range(1, 41)]
    assert 0 < found["BillableTimeInSeconds"] < found["TrainingTimeInSeconds"]


def test_a_machine_may_vanish_without_a_signal(aws: World):
    aws.cloud.account.quirks.spot_sigterm = False
    aws.create(aws.spot("gone", env={"STEPS": "40", "PAUSE": "0.05"}))
    aws.until_line("gone", "step 5")
    aws.cloud.interrupt("gone")
    assert aws.end("gone")["TrainingJobStatus"] == "Completed"
    lines = aws.lines("gone")
    assert "asked to end" not in lines
    assert lines.count("from 0") == 1
    assert lines[-1] == "step 40"


def test_a_stop_is_a_request_that_the_program_hears(aws: World):
    aws.create(aws.body("stopped", env={"STEPS": "4000", "PAUSE": "0.02"}))
    aws.until_line("stopped", "step 3")
    aws.sagemaker.stop_training_job(TrainingJobName="stopped")
    found = aws.end("stopped")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert "Stopping" in words(found)
    assert aws.lines("stopped")[-1] == "asked to end"
    assert "jobs/stopped/checkpoints/step" in aws.keys("jobs/")


def test_the_time_limit_stops_a_job(aws: World):
    aws.create(aws.body("late", env={"STEPS": "4000", "PAUSE": "0.02"}, StoppingCondition={"MaxRuntimeInSeconds": 600}))
    aws.until_line("late", "step 3")
    aws.cloud.clock.advance(601)
    found = aws.end("late")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert found["TrainingTimeInSeconds"] >= 600


def test_a_program_that_fails_gives_its_reason(aws: World):
    aws.create(aws.body("fails", env={"FAILS": "1"}))
    found = aws.end("fails")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Failed", "Failed")
    assert found["FailureReason"] == "AlgorithmError: the data ran dry, exit code: 3"


def test_a_checkpoint_that_is_deleted_vanishes_from_the_bucket(aws: World):
    aws.put_program(
        "import os, time\nroot = os.environ['CLOUDTUNE_ROOT'] + '/checkpoints/'\n"
        "os.makedirs(root + 'a')\nopen(root + 'a/x', 'w').write('1')\nprint('there', flush=True)\n"
        "while not os.path.exists(root + '../go'): time.sleep(0.05)\nos.remove(root + 'a/x')\nopen(root + 'b', 'w').write('2')\n"
    )
    aws.create(aws.body("prunes"))
    aws.until("prunes", lambda _: "jobs/prunes/checkpoints/a/x" in aws.keys("jobs/"))
    (go,) = aws.cloud.sagemaker.world.folder.glob("prunes/attempt-1/algo-1/ml")
    (go / "go").touch()
    assert aws.end("prunes")["TrainingJobStatus"] == "Completed"
    assert aws.keys("jobs/prunes/checkpoints/") == ["jobs/prunes/checkpoints/b"]


def test_a_file_that_is_being_written_is_synchronised_all_the_same(aws: World):
    """Its digest is sent before its body: what is uploaded must be one state of it."""
    aws.put_program(
        "import os, time\nplace = os.environ['CLOUDTUNE_ROOT'] + '/checkpoints/growing'\nend = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n    open(place, 'ab').write(os.urandom(200_000))\n    time.sleep(0.005)\n"
    )
    aws.create(aws.body("grows"))
    assert aws.end("grows")["TrainingJobStatus"] == "Completed"
    size = aws.s3.head_object(Bucket=aws.cloud.bucket, Key="jobs/grows/checkpoints/growing")["ContentLength"]
    assert size > 0
    assert size % 200_000 == 0
