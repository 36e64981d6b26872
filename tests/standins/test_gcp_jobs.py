"""The stand-in's JobService through Google's own client, over gRPC and REST: states on a clock that the test moves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Scene
from tests.standins.gcp_jobs import L4, grpc_client, job, parent, rest_client

SPOT, FLEX = 4, 6


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[GcpStandin]:
    """Nothing runs and time stands still but for ``advance``."""
    with GcpStandin.start(tmp_path / "gcp", mode="timed", speed=0) as running:
        yield running


@pytest.fixture(params=[rest_client, grpc_client], ids=["rest", "grpc"])
def client(request: pytest.FixtureRequest, cloud: GcpStandin) -> Any:
    make: Callable[[GcpStandin], Any] = request.param
    return make(cloud)


def state(client: Any, name: str) -> str:
    return str(client.get_custom_job(name=name).state.name.removeprefix("JOB_STATE_"))


def test_a_job_goes_through_its_states(cloud: GcpStandin, client: Any) -> None:
    made = client.create_custom_job(parent=parent(cloud), custom_job=job())
    assert made.name.startswith(f"projects/{cloud.scene.number}/locations/us-central1/customJobs/")
    seen = []
    for seconds in (0, 3, 25, 125):
        cloud.clock.advance(seconds)
        seen.append(state(client, made.name))
    assert seen == ["QUEUED", "PENDING", "RUNNING", "SUCCEEDED"]
    ended = client.get_custom_job(name=made.name)
    assert ended.create_time < ended.start_time < ended.end_time
    # Started at the 25th second: queue 2, machines 20, all containers up 3.
    assert (ended.start_time - ended.create_time).total_seconds() == 25
    assert not ended.error.code
    assert ended.job_spec.worker_pool_specs[0].machine_spec.machine_type == "g2-standard-8"
    assert dict(ended.labels) == {"cloudtune_run": "run"}


def test_the_error_comes_a_minute_after_the_end(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.timed_exit = 1
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    for seconds in (30, 130):
        cloud.clock.advance(seconds)
        state(client, name)
    failed = client.get_custom_job(name=name)
    assert failed.state.name == "JOB_STATE_FAILED"
    assert failed.error.code == 0
    cloud.clock.advance(60)
    error = client.get_custom_job(name=name).error
    assert error.code == 3
    assert error.message.startswith("The replica workerpool0-0 exited with a non-zero status of 1. Termination reason: Error.")


def test_cancel_is_asynchronous_and_ends_with_code_1(cloud: GcpStandin, client: Any) -> None:
    from google.api_core.exceptions import GoogleAPICallError

    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.clock.advance(30)
    assert state(client, name) == "RUNNING"
    assert client.cancel_custom_job(name=name) is None
    cloud.clock.advance(61)
    cancelled = client.get_custom_job(name=name)
    assert (cancelled.state.name, cancelled.error.code) == ("JOB_STATE_CANCELLED", 1)
    with pytest.raises(GoogleAPICallError, match="cannot be cancelled"):
        client.cancel_custom_job(name=name)


def test_a_queued_job_can_be_cancelled(cloud: GcpStandin, client: Any) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    client.cancel_custom_job(name=name)
    assert state(client, name) == "CANCELLED"
    assert client.get_custom_job(name=name).start_time is None


def test_the_timeout_counts_the_time_in_which_the_job_ran(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.pace.timed_run = 5000
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(timeout={"seconds": 600})).name
    for seconds in (26, 590):
        cloud.clock.advance(seconds)
        assert state(client, name) == "RUNNING"
    cloud.clock.advance(15)
    assert state(client, name) == "CANCELLED"


def test_nobody_is_found_under_a_wrong_name(cloud: GcpStandin, client: Any) -> None:
    from google.api_core.exceptions import NotFound

    for call in (client.get_custom_job, client.cancel_custom_job, client.delete_custom_job):
        with pytest.raises(NotFound, match="does not exist"):
            call(name=f"{parent(cloud)}/customJobs/17")


def test_a_state_that_the_library_does_not_know_arrives_as_a_number(cloud: GcpStandin, client: Any) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.show_state("run", 99)
    with pytest.warns(UserWarning, match="99"):
        found = client.get_custom_job(name=name).state
    assert found == 99
    cloud.show_state("run", None)
    assert state(client, name) == "QUEUED"


def test_delete_is_a_long_running_operation(cloud: GcpStandin, client: Any) -> None:
    from google.api_core.exceptions import FailedPrecondition, GoogleAPICallError, NotFound

    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    with pytest.raises(GoogleAPICallError, match="not in a final state") as refused:
        client.delete_custom_job(name=name)
    assert isinstance(refused.value, FailedPrecondition) or refused.value.code == 400
    client.cancel_custom_job(name=name)
    operation = client.delete_custom_job(name=name)
    assert not operation.done()
    cloud.clock.advance(6)
    operation.result(timeout=20)
    with pytest.raises(NotFound):
        client.get_custom_job(name=name)


def names(client: Any, cloud: GcpStandin, text: str = "", **more: Any) -> list[str]:
    found = client.list_custom_jobs(request={"parent": parent(cloud), "filter": text, **more})
    return [one.display_name for one in found]


def test_lists_are_filtered_and_newest_first(cloud: GcpStandin, client: Any) -> None:
    for name in ("one", "two", "three"):
        client.create_custom_job(parent=parent(cloud), custom_job=job(name))
        cloud.clock.advance(1)
    other = {**job("four"), "labels": {}}
    client.create_custom_job(parent=parent(cloud), custom_job=other)
    assert names(client, cloud) == ["four", "three", "two", "one"]
    assert names(client, cloud, "labels.cloudtune_run=two") == ["two"]
    assert names(client, cloud, "labels.cloudtune_run:*") == ["three", "two", "one"]
    assert names(client, cloud, 'display_name:"t*"') == ["three", "two"]
    assert names(client, cloud, 'NOT display_name="two" AND labels.cloudtune_run:*') == ["three", "one"]
    assert names(client, cloud, 'state="JOB_STATE_PENDING"') == ["two", "one"]
    assert names(client, cloud, 'state!="JOB_STATE_PENDING" OR display_name="one"') == ["four", "three", "one"]
    since = client.list_custom_jobs(request={"parent": parent(cloud), "filter": "labels.cloudtune_run=two"})
    moment = next(iter(since)).create_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert names(client, cloud, f'create_time>"{moment}"') == ["four", "three"]


def test_lists_come_in_pages(cloud: GcpStandin, client: Any) -> None:
    for number in range(7):
        client.create_custom_job(parent=parent(cloud), custom_job=job(f"n{number}"))
    pages = list(client.list_custom_jobs(request={"parent": parent(cloud), "page_size": 3}).pages)
    assert [len(page.custom_jobs) for page in pages] == [3, 3, 1]
    cloud.scene.jobs_page = 2
    assert len(list(client.list_custom_jobs(request={"parent": parent(cloud), "page_size": 5}).pages)) == 4
    assert names(client, cloud) == [f"n{number}" for number in reversed(range(7))]


def test_a_list_may_lag_behind_create(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.list_lag = 30
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    assert client.get_custom_job(name=name).name == name
    cloud.clock.advance(29)
    assert names(client, cloud) == []
    cloud.clock.advance(2)
    assert names(client, cloud) == ["run"]


def test_a_read_mask_leaves_the_rest_out(cloud: GcpStandin, client: Any) -> None:
    client.create_custom_job(parent=parent(cloud), custom_job=job())
    found = next(iter(client.list_custom_jobs(request={"parent": parent(cloud), "read_mask": "name,state,labels"})))
    assert found.state.name == "JOB_STATE_QUEUED"
    assert not found.job_spec.worker_pool_specs


def test_a_region_keeps_its_own_jobs(cloud: GcpStandin, client: Any) -> None:
    client.create_custom_job(parent=parent(cloud, "europe-west4"), custom_job=job("there"))
    assert names(client, cloud) == []
    assert [one.display_name for one in client.list_custom_jobs(parent=parent(cloud, "europe-west4"))] == ["there"]


@pytest.mark.parametrize(
    ("strategy", "metric"), [(3, "custom_model_training_nvidia_l4_gpus"), (SPOT, "custom_model_training_preemptible_nvidia_l4_gpus")]
)
def test_a_quota_shortage_may_refuse_the_create(cloud: GcpStandin, client: Any, strategy: int, metric: str) -> None:
    from google.api_core.exceptions import GoogleAPICallError

    cloud.scene.quotas[metric] = 1
    client.create_custom_job(parent=parent(cloud), custom_job=job("first", strategy=strategy))
    cloud.clock.advance(3)
    with pytest.raises(GoogleAPICallError, match=f"quota metrics exceed quota limits: aiplatform.googleapis.com/{metric}") as refused:
        client.create_custom_job(parent=parent(cloud), custom_job=job("second", strategy=strategy))
    assert refused.value.code == 429
    assert len(cloud.jobs()) == 1


def test_the_smallest_spot_quota_is_one_cpu(cloud: GcpStandin, client: Any) -> None:
    from google.api_core.exceptions import ResourceExhausted, TooManyRequests

    cloud.scene.quotas["custom_model_training_preemptible_cpus"] = 1
    with pytest.raises((ResourceExhausted, TooManyRequests), match="custom_model_training_preemptible_cpus"):
        client.create_custom_job(parent=parent(cloud), custom_job=job(strategy=SPOT))


def test_a_quota_shortage_may_fail_the_job_later(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.quotas["custom_model_training_nvidia_l4_gpus"] = 0
    cloud.scene.quota_shape = "fail"
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.clock.advance(70)
    failed = client.get_custom_job(name=name)
    assert (failed.state.name, failed.error.code) == ("JOB_STATE_FAILED", 8)
    assert "custom_model_training_nvidia_l4_gpus" in failed.error.message


def test_a_quota_shortage_may_keep_the_job_queued(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.quotas["custom_model_training_nvidia_l4_gpus"] = 0
    cloud.scene.quota_shape = "queue"
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.clock.advance(7200)
    assert state(client, name) == "QUEUED"
    cloud.scene.quotas.clear()
    assert state(client, name) == "PENDING"
    cloud.clock.advance(24)
    assert state(client, name) == "RUNNING"


def test_a_region_without_stock_is_tried_four_times(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.sold_out.add("g2-standard-8")
    name = client.create_custom_job(parent=parent(cloud), custom_job=job()).name
    cloud.clock.advance(60)
    assert state(client, name) == "PENDING"
    cloud.clock.advance(90)
    failed = client.get_custom_job(name=name)
    assert (failed.state.name, failed.error.code) == ("JOB_STATE_FAILED", 8)
    assert failed.error.message.startswith("Resources are insufficient in region: us-central1.")


def test_flex_start_waits_for_stock_up_to_its_limit(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.sold_out.add("g2-standard-8")
    short = client.create_custom_job(parent=parent(cloud), custom_job=job("short", strategy=FLEX, max_wait_duration={"seconds": 1800})).name
    long = client.create_custom_job(parent=parent(cloud), custom_job=job("long", strategy=FLEX, max_wait_duration={"seconds": 7200})).name
    cloud.clock.advance(1700)
    assert state(client, short) == state(client, long) == "PENDING"
    cloud.clock.advance(200)
    assert state(client, short) == "EXPIRED"
    assert state(client, long) == "PENDING"
    cloud.scene.sold_out.clear()
    state(client, long)
    cloud.clock.advance(4)
    assert state(client, long) == "RUNNING"


def test_a_spot_job_is_preempted_and_goes_on_as_the_same_job(cloud: GcpStandin, client: Any) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(strategy=SPOT)).name
    cloud.clock.advance(30)
    first = client.get_custom_job(name=name)
    assert first.state.name == "JOB_STATE_RUNNING"
    cloud.preempt("run")
    assert state(client, name) == "PENDING"
    cloud.clock.advance(40)
    again = client.get_custom_job(name=name)
    assert again.state.name == "JOB_STATE_RUNNING"
    assert again.start_time == first.start_time
    assert [one.attempt for one in cloud.jobs("run")] == [2]
    cloud.clock.advance(130)
    assert state(client, name) == "SUCCEEDED"


def test_the_seventh_preemption_is_the_last(cloud: GcpStandin, client: Any) -> None:
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(strategy=SPOT)).name
    for number in range(7):
        cloud.clock.advance(40)
        assert state(client, name) == "RUNNING", number
        cloud.preempt("run")
    cloud.clock.advance(61)
    failed = client.get_custom_job(name=name)
    assert (failed.state.name, failed.error.code) == ("JOB_STATE_FAILED", 8)
    assert "Resources are insufficient in region" in failed.error.message


def test_only_spot_jobs_are_preempted(cloud: GcpStandin, client: Any) -> None:
    client.create_custom_job(parent=parent(cloud), custom_job=job())
    cloud.clock.advance(30)
    with pytest.raises(ValueError, match="no Spot job"):
        cloud.preempt("run")


@pytest.mark.parametrize(
    ("code", "starts"),
    [
        pytest.param(1, 1, id="an exception is final"),
        pytest.param(137, 1, id="out of memory is final"),
        pytest.param(139, 4, id="a crash is tried three times more"),
        pytest.param(75, 4, id="anything else: five restarts of the worker, then three of the job"),
    ],
)
def test_exit_codes_decide_what_starts_again(cloud: GcpStandin, client: Any, code: int, starts: int) -> None:
    cloud.scene.timed_exit = code
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(timeout={"seconds": 100_000})).name
    for _ in range(60):
        cloud.clock.advance(125)
        if state(client, name) == "FAILED":
            break
    assert state(client, name) == "FAILED"
    assert cloud.jobs("run")[0].attempt == starts
    restarts = [entry.text for entry in cloud.logs.entries if "Restarting it" in entry.text]
    assert len(restarts) == (20 if code == 75 else 0)


def test_disable_retries_makes_the_first_exit_final(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.timed_exit = 75
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(disable_retries=True)).name
    for _ in range(2):
        cloud.clock.advance(130)
        state(client, name)
    assert state(client, name) == "FAILED"
    assert cloud.jobs("run")[0].attempt == 1


def test_a_worker_that_restarts_may_restart_the_job(cloud: GcpStandin, client: Any) -> None:
    cloud.scene.timed_exit = 75
    name = client.create_custom_job(parent=parent(cloud), custom_job=job(restart_job_on_worker_restart=True)).name
    cloud.clock.advance(30)
    state(client, name)
    cloud.clock.advance(125)
    assert state(client, name) == "PENDING"
    cloud.scene.timed_exit = 0
    cloud.clock.advance(15)
    assert state(client, name) == "RUNNING"
    assert cloud.jobs("run")[0].attempt == 2


def test_an_image_that_is_not_there_fails_the_job(cloud: GcpStandin, client: Any) -> None:
    body = job()
    cloud.scene.missing_images.add(body["job_spec"]["worker_pool_specs"][0]["container_spec"]["image_uri"])
    name = client.create_custom_job(parent=parent(cloud), custom_job=body).name
    cloud.clock.advance(100)
    failed = client.get_custom_job(name=name)
    assert failed.state.name == "JOB_STATE_FAILED"
    assert "Failed to pull image" in failed.error.message


def test_the_service_says_in_the_log_what_it_does(cloud: GcpStandin, client: Any) -> None:
    client.create_custom_job(parent=parent(cloud), custom_job=job())
    cloud.clock.advance(30)
    cloud.jobs()
    cloud.clock.advance(130)
    cloud.jobs()
    assert [entry.text for entry in cloud.logs.entries] == [
        "Waiting for job to be provisioned.",
        "Job is running.",
        "Job completed successfully.",
    ]


def test_a_scene_of_the_test_s_own(tmp_path: Path) -> None:
    scene = Scene(project="elsewhere", region="europe-west4", service_account="me@elsewhere.iam.gserviceaccount.com")
    with GcpStandin.start(tmp_path / "gcp", mode="timed", speed=0, scene=scene) as cloud:
        body = copy.deepcopy(job())
        body["job_spec"]["service_account"] = scene.service_account
        made = rest_client(cloud).create_custom_job(parent=parent(cloud, "europe-west4"), custom_job=body)
        assert made.job_spec.service_account == scene.service_account
        assert cloud.environment["CLOUDTUNE_GCP_REGION"] == "europe-west4"
    assert L4["machine_type"] == "g2-standard-8"
