"""Vertex AI keeps the laws of a JobService: Google's own client, over gRPC and over REST, against the stand-in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cloudtune.clock import SystemClock
from cloudtune.errors import AuthError, CloudtuneError, QuotaError, RejectedError, ThrottledError, UnavailableError
from cloudtune.job import JobRef, JobState, LaunchId
from cloudtune.providers.base import Request
from cloudtune.providers.gcp.jobs import LAG_SECONDS, GcpJobs
from cloudtune.providers.gcp.tables import STATES, job_state
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Pace, Scene
from tests.cloud_clock import CloudClock
from tests.contract.job_service import JobServiceLaws, JobServiceWorld, wait_for
from tests.unit.gcp_builders import Project, body_of, gcp_plan

CALL_SECONDS = 1.0
FOREVER = 10.0**9


class GcpWorld(JobServiceWorld):
    deadline_seconds = 4 * CALL_SECONDS + 1

    def __init__(self, cloud, endpoint, folder):
        self.cloud = cloud
        self.folder = folder
        scene = cloud.scene
        self.settings = Project(
            gcp_project=scene.project, gcp_bucket=scene.bucket, gcp_region=scene.region, gcp_endpoint=endpoint,
            gcp_service_account=scene.service_account,
        )  # fmt: skip
        self._service = GcpJobs(self.settings, CloudClock(cloud), call_seconds=CALL_SECONDS)

    @property
    def service(self):
        return self._service

    def again(self):
        """The same place in a process that knows nothing of the first one's calls."""
        return GcpJobs(self.settings, CloudClock(self.cloud), call_seconds=CALL_SECONDS)

    def request(self, launch_id, *, variant="a", **more):
        plan = gcp_plan(self.folder, disk_gib={"a": 100, "b": 200}[variant], **more)
        return Request("gcp", LaunchId(launch_id), body_of(plan, launch_id=launch_id, settings=self.settings))

    def count_jobs(self, launch_id):
        return len(self.cloud.jobs(launch_id))

    def lose_reply(self, request):
        self.cloud.faults.add("CreateCustomJob", "lost_reply")
        with pytest.raises(UnavailableError):
            self._service._vertex(self.cloud.scene.region).create(request.body)

    def finish(self, ref):
        wait_for(self, ref, JobState.RUNNING)
        self.cloud.clock.advance(self.cloud.scene.pace.timed_run)
        wait_for(self, ref, JobState.SUCCEEDED)

    def native_words(self):
        return [name for name, _ in STATES.values()]

    def state_of(self, native):
        return job_state(native)

    def break_down(self):
        self.cloud.faults.add("*", "error503", None)

    def fall_silent(self, launch_id):  # noqa: ARG002
        self.cloud.faults.add("ListCustomJobs", "silent", None)

    def expire_login(self):
        self.cloud.faults.add("*", "expired", None)
        return True


@pytest.fixture(params=["http", "grpc"])
def world(request, tmp_path, monkeypatch):
    scene = Scene(pace=Pace(queued=0.05, provisioning=0.1, all_up=0.1, timed_run=FOREVER, error_late=60))
    with GcpStandin.start(tmp_path / "cloud", mode="timed", scene=scene) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield GcpWorld(cloud, cloud.url if request.param == "http" else cloud.grpc_url, tmp_path / "rows")


class TestGcpJobs(JobServiceLaws):
    pass


def test_a_reference_can_be_pasted(world):
    ref = world.service.submit(world.request("paste-abc"))
    assert str(ref) == "gcp://cloudtune-standin.us-central1/paste-abc"
    assert JobRef.parse(str(ref)) == ref
    assert list(world.again().inventory()) == [ref]
    nobody = GcpJobs(replace(world.settings, gcp_project=None), SystemClock())
    assert list(nobody.inventory()) == []


def test_an_answer_that_is_lost_while_lists_lag_leaves_one_job(world):
    world.cloud.scene.list_lag = 30
    world.cloud.faults.add("CreateCustomJob", "lost_reply")
    ref = world.service.submit(world.request("lag-abc"))
    assert world.count_jobs("lag-abc") == 1
    assert world.again().find(LaunchId("lag-abc")) == ref
    assert world.cloud.faults.calls["CreateCustomJob"] == 1


def test_a_launcher_that_died_after_the_create_is_followed_by_one_that_waits(world):
    """The first launcher never heard the answer and is gone; the second, within the lag, creates no second job."""
    world.cloud.scene.list_lag = 30
    request = world.request("died-abc")
    world.service._owners().begin("died-abc", world.cloud.clock.now())
    world.lose_reply(request)
    ref = world.again().submit(request)
    assert ref.name == "died-abc"
    assert world.count_jobs("died-abc") == 1


def test_a_create_that_never_arrived_is_sent_by_the_next_try(world):
    request = world.request("never-abc")
    world.cloud.faults.add("CreateCustomJob", "dropped")
    with pytest.raises(UnavailableError):
        world.service.submit(request)
    assert world.count_jobs("never-abc") == 0
    world.again().submit(request)
    assert world.count_jobs("never-abc") == 1


@pytest.mark.parametrize("kind", ["expired", "access_denied"])
def test_who_may_not_look_after_a_lost_answer_does_not_take_that_for_a_no(world, kind):
    """The launcher closes a launch that was clearly refused, and this job trains."""
    request = world.request("blind-abc")
    world.cloud.faults.add("CreateCustomJob", "lost_reply")
    world.cloud.faults.add("ListCustomJobs", kind, None, after=1, detail="aiplatform.customJobs.list")
    with pytest.raises(UnavailableError):
        world.service.submit(request)
    world.cloud.faults.clear()
    assert world.again().submit(request) == world.again().find(LaunchId("blind-abc"))
    assert world.count_jobs("blind-abc") == 1


def test_a_job_that_lists_do_not_show_yet_is_polled_by_name(world):
    ref = world.service.submit(world.request("fresh-abc"))
    world.cloud.scene.list_lag = 10**6
    assert world.again().poll([ref])[0].state in (JobState.QUEUED, JobState.STARTING, JobState.RUNNING)
    world.service._owners().note("fresh-abc", world.service._owners().mark("fresh-abc"), "")
    assert world.again().poll([ref])[0].state is JobState.UNKNOWN
    world.cloud.clock.advance(LAG_SECONDS)
    assert world.again().poll([ref])[0].state is JobState.LOST


def test_of_two_jobs_the_oldest_stays_and_everybody_agrees(world):
    request = world.request("double-abc")
    first, second = (world.service._vertex("us-central1").create(request.body) for _ in range(2))
    world.cloud.clock.advance(1)
    ref = world.service.find(LaunchId("double-abc"))
    states = {job.key: job.state for job in world.cloud.jobs("double-abc")}
    assert states[second.key] in (6, 7)
    assert states[first.key] not in (6, 7)
    assert world.service._owners().owner("double-abc") == first.key
    reading = world.again().poll([ref])[0]
    assert not reading.state.terminal


def test_a_younger_double_that_owns_the_launch_stays(world):
    """Its container was up first and took the lock: then it trains, and the older one is cancelled."""
    request = world.request("young-abc")
    first, second = (world.service._vertex("us-central1").create(request.body) for _ in range(2))
    world.service._owners().claim("young-abc", second.key)
    assert world.service.find(LaunchId("young-abc")) is not None
    states = {job.key: job.state for job in world.cloud.jobs("young-abc")}
    assert states[first.key] in (6, 7)
    assert states[second.key] not in (6, 7)


def test_an_owner_that_is_not_listed_costs_no_job(world):
    """Whatever a container took for its number: a job is only cancelled beside the owner."""
    ref = world.service.submit(world.request("alien-abc"))
    world.service._owners().claim("alien-abc", "a number of another kind")
    assert world.again().find(LaunchId("alien-abc")) == ref
    assert world.again().submit(world.request("alien-abc")) == ref
    assert not world.again().poll([ref])[0].state.terminal
    assert [job.state for job in world.cloud.jobs("alien-abc")] not in ([6], [7])


def test_after_the_fence_no_job_of_the_launch_counts(world):
    request = world.request("fence-abc")
    assert world.service.fence(LaunchId("fence-abc")) is None
    world.service._vertex("us-central1").create(request.body)  # the create that was still on its way
    assert world.again().find(LaunchId("fence-abc")) is None
    assert [job.state for job in world.cloud.jobs("fence-abc")] in ([6], [7])
    with pytest.raises(RejectedError) as caught:
        world.again().submit(request)
    assert caught.value.code == "fenced"


def test_a_launch_that_was_given_up_is_not_created_again(world):
    """Not even to be cancelled at once: it would be in the project's list and, if it got so far, on the bill."""
    assert world.service.fence(LaunchId("over-abc")) is None
    with pytest.raises(RejectedError, match="given up"):
        world.again().submit(world.request("over-abc"))
    assert world.count_jobs("over-abc") == 0


def test_the_fence_finds_a_job_that_is_there(world):
    ref = world.service.submit(world.request("there-abc"))
    assert world.again().fence(LaunchId("there-abc")) == ref


def test_trouble_while_polling_is_waited_out_and_a_storm_is_not_a_loss(world):
    ref = world.service.submit(world.request("storm-abc"))
    for kind in ("error503", "throttle", "error500"):
        world.cloud.faults.add("ListCustomJobs", kind)
    assert world.service.poll([ref])[0].state is not JobState.LOST
    world.cloud.faults.add("ListCustomJobs", "throttle", None)
    with pytest.raises(ThrottledError):
        world.service.poll([ref])


def test_a_dead_login_is_no_dead_network_and_a_new_one_is_taken(world):
    ref = world.service.submit(world.request("login-abc"))
    world.cloud.faults.add("ListCustomJobs", "expired")
    calls = world.cloud.faults.calls["ListCustomJobs"]
    with pytest.raises(AuthError) as caught:
        world.service.poll([ref])
    assert world.cloud.faults.calls["ListCustomJobs"] == calls + 1, "a dead login was asked again"
    assert "gcloud auth" in caught.value.hint
    assert world.service.poll([ref])[0].ref == ref


@pytest.mark.parametrize("shape", ["reject", "fail", "queue"])
def test_the_three_shapes_of_a_quota_shortage(world, shape):
    world.cloud.scene.quotas["custom_model_training_nvidia_l4_gpus"] = 0
    world.cloud.scene.quota_shape = shape
    request = world.request("quota-abc")
    if shape == "reject":
        with pytest.raises(QuotaError) as caught:
            world.service.submit(request)
        assert "custom_model_training_nvidia_l4_gpus" in caught.value.hint
        return
    ref = world.service.submit(request)
    world.cloud.clock.advance(3600)
    reading = world.service.poll([ref])[0]
    if shape == "fail":
        assert reading.state is JobState.FAILED
        assert "custom_model_training_nvidia_l4_gpus" in reading.message
    else:
        assert reading.state is JobState.QUEUED
        assert "quota" in reading.message.lower()


def test_a_late_reason_is_waited_for(world):
    world.cloud.scene.timed_exit = 1
    world.cloud.scene.pace.timed_run = 5
    ref = world.service.submit(world.request("late-abc"))
    wait_for(world, ref, JobState.RUNNING)
    world.cloud.clock.advance(6)
    assert wait_for(world, ref, JobState.UPLOADING, JobState.FAILED) is JobState.UPLOADING
    world.cloud.clock.advance(61)
    reading = world.service.poll([ref])[0]
    assert reading.state is JobState.FAILED
    assert "non-zero status of 1" in reading.message


def test_the_failure_file_says_it_sooner_and_better(world):
    world.cloud.scene.timed_exit = 1
    world.cloud.scene.pace.timed_run = 5
    ref = world.service.submit(world.request("file-abc"))
    wait_for(world, ref, JobState.RUNNING)
    folder = "cloudtune/jobs/file-abc/output"
    world.cloud.store.put_bytes(world.cloud.scene.bucket, f"{folder}/failure", b"the loss is no number at step 7\nmore")
    world.cloud.store.put_bytes(world.cloud.scene.bucket, f"{folder}/data/status.json", b'{"exit_code": 1}')
    world.cloud.clock.advance(6)
    wait_for(world, ref, JobState.FAILED)
    reading = world.service.poll([ref])[0]
    assert (reading.message, reading.exit_code) == ("the loss is no number at step 7", 1)


def test_progress_and_cost_come_without_the_log(world):
    ref = world.service.submit(world.request("progress-abc"))
    wait_for(world, ref, JobState.RUNNING)
    rows = b'{"at": 1, "phase": "train", "step": 5, "total_steps": 20, "loss": 1.5}\n{"at": 2, "phase": "tr'
    world.cloud.store.put_bytes(world.cloud.scene.bucket, "cloudtune/jobs/progress-abc/output/data/metrics.jsonl", rows)
    world.cloud.clock.advance(61)
    reading = world.service.poll([ref])[0]
    assert (reading.progress.step, reading.progress.loss) == (5, 1.5)
    assert reading.billable_seconds % 30 == 0
    assert 60 <= reading.billable_seconds <= 120
    assert reading.outputs == "gs://cloudtune-standin-bucket/cloudtune/jobs/progress-abc/model"
    assert reading.remains == "gs://cloudtune-standin-bucket/cloudtune/jobs/progress-abc"


def test_a_state_of_next_year_ends_nothing(world):
    ref = world.service.submit(world.request("next-abc"))
    world.cloud.show_state("next-abc", 77)
    reading = world.service.poll([ref])[0]
    assert (reading.state, reading.native_state) == (JobState.UNKNOWN, "JOB_STATE_77")
    world.cloud.show_state("next-abc", None)
    assert world.service.poll([ref])[0].state is not JobState.UNKNOWN


def test_a_preempted_job_is_interrupted_until_it_runs_again(world):
    ref = world.service.submit(world.request("spot-abc", purchase="spot"))
    wait_for(world, ref, JobState.RUNNING)
    world.cloud.preempt("spot-abc")
    wait_for(world, ref, JobState.INTERRUPTED)
    world.cloud.clock.advance(60)
    wait_for(world, ref, JobState.RUNNING)


def test_a_job_at_its_time_limit_says_so(world):
    ref = world.service.submit(world.request("limit-abc", update={"max_seconds": 600}))
    wait_for(world, ref, JobState.RUNNING)
    world.cloud.clock.advance(601)
    wait_for(world, ref, JobState.STOPPED)
    assert "time limit" in world.service.poll([ref])[0].message


def test_many_jobs_are_one_list(world):
    refs = [world.service.submit(world.request(f"many-{number:02d}")) for number in range(45)]
    world.cloud.scene.jobs_page = 20
    calls = world.cloud.faults.calls["ListCustomJobs"]
    assert [reading.ref for reading in world.service.poll(refs[:30])] == refs[:30]
    assert world.cloud.faults.calls["ListCustomJobs"] == calls + 2  # pages of 20
    assert [reading.ref for reading in world.service.poll(refs)] == refs
    assert world.cloud.faults.calls["ListCustomJobs"] == calls + 5


def test_small_files_are_not_read_more_often_than_they_change(world):
    ref = world.service.submit(world.request("often-abc"))
    wait_for(world, ref, JobState.RUNNING)
    world.service.poll([ref])
    reads = world.cloud.faults.calls["storage.objects.get"]
    for _ in range(3):
        world.service.poll([ref])
    assert world.cloud.faults.calls["storage.objects.get"] == reads
    world.cloud.clock.advance(6)
    world.service.poll([ref])
    assert world.cloud.faults.calls["storage.objects.get"] > reads


def test_the_service_takes_the_body_as_it_is(world):
    """What the service has is what the request says: no field was lost on the way through the library's types."""
    from google.protobuf.json_format import MessageToDict

    request = world.request("body-abc", purchase="flex_start", nodes=3, update={"max_seconds": 7000})
    world.service.submit(request)
    made = world.cloud.jobs("body-abc")[0].body
    told = MessageToDict(type(made).pb(made))
    wanted = json.loads(json.dumps(request.body["customJob"]))
    assert told["labels"] == wanted["labels"]
    assert told["jobSpec"]["scheduling"] == {key: value for key, value in wanted["jobSpec"]["scheduling"].items() if value is not False}
    for ours, theirs in zip(wanted["jobSpec"]["workerPoolSpecs"], told["jobSpec"]["workerPoolSpecs"], strict=True):
        assert theirs == {**ours, "replicaCount": str(ours["replicaCount"])}


def test_rights_that_are_missing_are_named(world):
    world.cloud.scene.denied.add("aiplatform.customJobs.create")
    with pytest.raises(CloudtuneError) as caught:
        world.service.submit(world.request("denied-abc"))
    assert isinstance(caught.value, AuthError)
    assert "aiplatform.customJobs.create" in caught.value.what
    assert "--print-policy" in caught.value.hint
