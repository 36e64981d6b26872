"""A job's whole life on Vertex AI: the real launcher, client, image, bucket, supervisor and log, against the stand-in's machines."""

from __future__ import annotations

import json
import time

import pytest

from cloudtune.errors import AuthError, JobFailed, QuotaError, StagingError
from cloudtune.job import JobState
from cloudtune.providers.gcp.images import build_body, packed
from cloudtune.show.jobs import cost_lines
from cloudtune.show.text import Page
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.verbs.collect import collect
from cloudtune.verbs.cost import cost
from cloudtune.verbs.jobs import failure, ps, status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.render import render
from cloudtune.verbs.stop import stop
from cloudtune.verbs.track import track
from cloudtune.wire.gcs import Bucket
from tests.cloud_clock import HurriedClock
from tests.gcp_life import gcp_session, quick_scene, write_trainer
from tests.unit.gcp_builders import gcp_plan


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with GcpStandin.start(tmp_path / "cloud", scene=quick_scene()) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield cloud


def lines(job, session, cursor=None):
    return [line.text for page in logs(job, session=session, cursor=cursor) for line in page.lines]


def wait_for(job, session, *states, seconds=60):
    deadline = time.monotonic() + seconds
    while (view := status(job, session)).state not in states:
        assert time.monotonic() < deadline, f"still {view.state}: {view.message}"
        time.sleep(0.1)
    return view


def test_launch_preempt_resume_collect(cloud, tmp_path):
    trainer = write_trainer(tmp_path, steps=40, pause=0.2)
    said = []
    with gcp_session(tmp_path, cloud, HurriedClock(), trainer=trainer) as session:
        plan = gcp_plan(tmp_path / "data", purchase="spot")
        view = launch(plan, session=session, launch_id="life-abc", progress=said.append)
        assert str(view.ref) == "gcp://cloudtune-standin.us-central1/life-abc"
        assert any("Cloud Build" in text for text in said)
        wait_for("life-abc", session, JobState.RUNNING)
        deadline = time.monotonic() + 30
        while (progress := status("life-abc", session).progress) is None or (progress.step or 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        cloud.preempt("life-abc")
        ended = list(track("life-abc", session=session))[-1]
        assert ended.state is JobState.SUCCEEDED, ended.message
        collected = collect("life-abc", session=session)
        assert not collected.partial
        assert collected.manifest.resumed_from_step >= 3
        assert (collected.folder / "adapter/adapter.safetensors").read_bytes() == b"weights" * 200_000
        told = lines("life-abc", session)
        assert "step 40 of 40" in told
        assert sum(text == "step 1 of 40" for text in told) == 1
        assert any("checkpoint(s) brought back" in text for text in told)
        assert [row.usd for row in cost(session).rows] == [pytest.approx(status("life-abc", session).billable_seconds / 3600, abs=1e-4)]
        assert cost_lines(cost(session), Page())[-1].split("  ")[-1].startswith("at most $0.0"), (
            "the gap between two machines is counted, and said so"
        )
        assert [job.state for job in cloud.jobs("life-abc")] == [4]


def test_data_and_base_model_in_cloud_storage_are_read_from_where_they_are(cloud, tmp_path):
    cloud.store.make_bucket("their-shelf", cloud.scene.region.upper(), {})
    shelf = Bucket("their-shelf", sleep=lambda _: None)
    for name, content in {"rows/all.jsonl": b"{}\n", "m/tiny/config.json": b"{}", "m/tiny/model.safetensors": b"w"}.items():
        shelf.write(name, content)
    trainer = write_trainer(tmp_path, steps=2)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        plan = gcp_plan(tmp_path / "data", data="gs://their-shelf/rows/rows.jsonl", model={"base": "gs://their-shelf/m/tiny/"})
        problems = session.place("gcp").preflight.check(plan)
        assert [(problem.code, problem.where) for problem in problems] == [("no-data", "gs://their-shelf/rows/rows.jsonl")]
        shelf.write("rows/rows.jsonl", b"{}\n")
        launch(plan, session=session, launch_id="shelf-abc")
        view = wait_for("shelf-abc", session, JobState.SUCCEEDED, JobState.FAILED)
        assert view.state is JobState.SUCCEEDED, view.message
        assert "inputs job/job.json model/config.json model/model.safetensors train-0/rows.jsonl" in lines("shelf-abc", session)
        assert not [name for name in cloud.store.bucket(cloud.scene.bucket).objects if "/models/" in name], "nothing was copied"


def test_data_in_s3_that_this_login_cannot_read_is_a_problem_before_anything_is_uploaded(cloud, tmp_path):
    with gcp_session(tmp_path, cloud) as session:
        problems = session.place("gcp").preflight.check(gcp_plan(tmp_path / "data", data="s3://theirs/rows.jsonl"))
        assert [type(problem) for problem in problems] == [AuthError]
        assert "log in again (aws sso login" in problems[0].hint
    assert cloud.faults.calls["storage.objects.insert"] == 0


def test_the_same_release_builds_and_uploads_once(cloud, tmp_path):
    trainer = write_trainer(tmp_path, steps=2)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        plan = gcp_plan(tmp_path / "data")
        launch(plan, session=session, launch_id="first-abc")
        builds = cloud.faults.calls["builds.create"]
        objects = set(cloud.store.bucket(cloud.scene.bucket).objects)
        said = []
        launch(plan, session=session, launch_id="second-abc", progress=said.append)
        fresh = set(cloud.store.bucket(cloud.scene.bucket).objects) - objects
        assert builds == 1
        assert cloud.faults.calls["builds.create"] == 1
        assert {name for name in fresh if "/jobs/" not in name} == set()
        assert any("in the bucket already" in text for text in said)
        assert any("is there already" in text for text in said)
        images = {job.body.job_spec.worker_pool_specs[0].container_spec.image_uri for job in cloud.jobs()}
        assert len(images) == 1
        assert "@sha256:" in images.pop()
        assert {wait_for(job, session, JobState.SUCCEEDED).id for job in ("first-abc", "second-abc")} == {"first-abc", "second-abc"}


def test_a_failure_says_why_and_leaves_its_log(cloud, tmp_path):
    trainer = write_trainer(tmp_path, steps=6, fail_at=4)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        launch(gcp_plan(tmp_path / "data"), session=session, launch_id="fail-abc")
        view = wait_for("fail-abc", session, JobState.FAILED)
        assert view.message.startswith("the data ran dry")
        assert view.exit_code == 1
        assert isinstance(failure(view), JobFailed)
        collected = collect("fail-abc", session=session)
        assert collected.partial
        assert {"metrics.jsonl", "failure", "log.txt"} <= set(collected.files)
        assert [entry.path for entry in collected.left_there if entry.path.endswith("COMPLETE")]


def test_stop_keeps_what_there_is(cloud, tmp_path):
    trainer = write_trainer(tmp_path, steps=1000, pause=0.1)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        launch(gcp_plan(tmp_path / "data"), session=session, launch_id="stop-abc")
        wait_for("stop-abc", session, JobState.RUNNING)
        time.sleep(1)
        view = stop("stop-abc", session=session)
        assert view.state is JobState.STOPPED
        assert stop("stop-abc", session=session).state is JobState.STOPPED
        collected = collect("stop-abc", session=session)
        assert collected.partial
        assert collected.manifest.outcome == "interrupted"


def test_a_double_ends_in_seconds_and_trains_nothing(cloud, tmp_path):
    """Two creates of one launch: the second container finds the owner and ends before it touches the results."""
    trainer = write_trainer(tmp_path, steps=20, pause=0.1)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        launch(gcp_plan(tmp_path / "data"), session=session, launch_id="twice-abc")
        request = session.ledger.launch("twice-abc").request
        wait_for("twice-abc", session, JobState.RUNNING)
        time.sleep(0.5)
        jobs = session.place("gcp").jobs
        double = jobs._vertex("us-central1").create(json.loads(request))
        deadline = time.monotonic() + 30
        while next(job for job in cloud.jobs() if job.name == double.name).state not in (4, 5, 7):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        texts = [entry.text for entry in cloud.logs.entries if entry.job == double.key]
        assert any("is a double; ending" in text for text in texts)
        assert not any("step 1 of" in text for text in texts)
        assert wait_for("twice-abc", session, JobState.SUCCEEDED).state is JobState.SUCCEEDED
        assert collect("twice-abc", session=session).manifest.outcome == "complete"


def test_logs_that_come_late_are_given_once(cloud, tmp_path):
    cloud.scene.log_late = 1.5
    cloud.scene.log_page = 7
    trainer = write_trainer(tmp_path, steps=40, pause=0.02)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        launch(gcp_plan(tmp_path / "data"), session=session, launch_id="late-abc")
        told = [line.text for page in logs("late-abc", session=session, follow=True) for line in page.lines]
        steps = [text for text in told if text.startswith("step ")]
        assert sorted(steps) == sorted(f"step {number} of 40" for number in range(1, 41))


def test_without_the_right_to_read_logs_progress_and_results_still_come(cloud, tmp_path):
    cloud.scene.denied.add("logging.logEntries.list")
    trainer = write_trainer(tmp_path, steps=3)
    with gcp_session(tmp_path, cloud, trainer=trainer) as session:
        launch(gcp_plan(tmp_path / "data"), session=session, launch_id="quiet-abc")
        view = wait_for("quiet-abc", session, JobState.SUCCEEDED)
        assert view.progress.step == 3
        assert not collect("quiet-abc", session=session).partial
        with pytest.raises(AuthError) as caught:
            lines("quiet-abc", session)
        assert "roles/logging.viewer" in caught.value.hint


def test_a_build_that_fails_is_told_with_its_log(cloud, tmp_path):
    cloud.scene.builds_fail = True
    with gcp_session(tmp_path, cloud) as session:
        with pytest.raises(StagingError) as caught:
            launch(gcp_plan(tmp_path / "data"), session=session, launch_id="build-abc")
        assert caught.value.code == "remote-build"
        assert "CLOUDTUNE_GCP_IMAGE=engine" in caught.value.hint
        assert list(ps(session)) == []


@pytest.mark.parametrize(
    ("breaking", "code", "words"),
    [
        (lambda scene: scene.denied.add("aiplatform.customJobs.create"), "rights", "aiplatform.customJobs.create"),
        (lambda scene: scene.denied.add("iam.serviceAccounts.actAs"), "act-as", "may not let jobs run as"),
        (lambda scene: scene.denied.add("storage.objects.create"), "rights", "storage.objects.create"),
        (lambda scene: scene.quotas.update(custom_model_training_nvidia_l4_gpus=0), "quota", "custom_model_training_nvidia_l4_gpus is 0"),
        (lambda scene: setattr(scene, "repository", "another"), "no-repository", "there is no repository"),
        (lambda scene: scene.quotas.update(custom_model_training_preemptible_cpus=1), None, ""),
    ],
)
def test_preflight_finds_it_before_anything_is_uploaded(cloud, tmp_path, breaking, code, words):
    with gcp_session(tmp_path, cloud) as session:
        breaking(cloud.scene)
        problems = session.place("gcp").preflight.check(gcp_plan(tmp_path / "data"))
        assert [problem.code for problem in problems] == ([code] if code else [])
        assert all(words in problem.what and problem.hint for problem in problems)
        spot = session.place("gcp").preflight.check(gcp_plan(tmp_path / "data", purchase="spot"))
        if code is None:
            assert [type(problem) for problem in spot] == [QuotaError]
            assert "preemptible_cpus is 1" in spot[0].what
    assert cloud.faults.calls["storage.objects.insert"] == 0


def test_doctor_shows_every_row(cloud, tmp_path):
    with gcp_session(tmp_path, cloud) as session:
        rows = {finding.name: finding for finding in session.place("gcp").examiner.examine()}
        assert {"project", "rights", "API aiplatform", "job account", "bucket", "repository"} <= rows.keys()
        assert {finding.verdict for finding in rows.values()} == {"ok"}
        cloud.scene.denied.add("storage.objects.list")
        rows = {finding.name: finding for finding in session.place("gcp").examiner.examine()}
        assert rows["bucket"].verdict == "problem"
        assert "--print-policy" in rows["bucket"].hint


def test_the_image_is_the_same_whichever_cloud_runs_it(tmp_path):
    """One recipe, both clouds: what is built does not depend on the provider."""
    from tests.unit.aws_builders import aws_plan

    bundles = [render(plan) for plan in (gcp_plan(tmp_path), aws_plan(tmp_path))]
    assert len({bundle.image_digest for bundle in bundles}) == 1
    archives = {packed(bundle.image) for bundle in bundles}
    assert len(archives) == 1
    body = build_body("b", "o", 7, "us-docker.pkg.dev/p/r/n:t")
    assert int(body["timeout"].removesuffix("s")) > 600
