"""What SageMaker bills, in money: its own count for spot, warm pools, the type that was taken, and a range while it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloudtune.clock import SystemClock
from cloudtune.job import LaunchId
from cloudtune.providers.aws.readings import bill_of, seen_of
from cloudtune.providers.base import Place, Staged
from cloudtune.session import Session
from cloudtune.standins.aws.account import Account
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.verbs.cost import cost
from cloudtune.verbs.launch import launch
from tests.contract.aws_world import AwsWorld
from tests.unit import aws_builders

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Stager:
    """Everything was staged before."""

    def __init__(self, bucket):
        self.bucket = bucket

    def stage(self, bundle, plan, progress):  # noqa: ARG002
        return Staged("d" * 64, dict.fromkeys(("job", "train", "code"), f"s3://{self.bucket}/data/"))


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory):
    with AwsStandin.start(tmp_path_factory.mktemp("cloud"), mode="scripted") as cloud:
        yield cloud


@pytest.fixture
def world(running_cloud, tmp_path, monkeypatch):
    for name, value in running_cloud.environment.items():
        monkeypatch.setenv(name, value)
    running_cloud.account.quirks = Account().quirks
    running_cloud.account.warm_pool_quota = 4
    running_cloud.faults.calls.clear()
    world = AwsWorld(tmp_path, running_cloud)
    jobs = world.service
    place = Place(
        name="aws",
        build_request=lambda _plan, _staged, launch_id: world.request(launch_id, **world.changes),
        jobs=jobs,
        stager=Stager(running_cloud.bucket),
        billing=jobs,
    )
    world.changes = {}
    world.session = Session(world.settings, SystemClock(), places={"aws": place})
    yield world
    world.session.close()


def run(world, launch_id, **changes):
    """Launch a job at 1.5 USD per hour (3 at most, for spot)."""
    world.changes = changes
    plan = aws_builders.aws_plan(world.folder, **changes)
    if changes.get("purchase") == "spot":
        plan = plan.model_copy(update={"chosen": plan.chosen.model_copy(update={"usd_per_hour_high": 3.0})})
    launch(plan, session=world.session, launch_id=launch_id)
    return world.cloud.sagemaker.records[launch_id]


def only(world):
    costs = cost(world.session)
    assert costs.problems == ()
    return costs.rows[-1]


def test_a_spot_job_is_a_range_while_it_runs_and_the_services_count_at_the_full_price_afterwards(world):
    record = run(world, "spot-abc", purchase="spot")
    record.training_began = record.attempt_began = record.training_began - timedelta(hours=2)
    row = only(world)
    assert row.hours == pytest.approx(2, abs=0.01)
    assert (row.usd, row.usd_low, row.usd_high) == pytest.approx((3.0, 1.8, 6.0), abs=0.02)
    assert not row.final
    world.cloud.finish("spot-abc")
    row = only(world)
    # Two hours at the full price of 3 USD, of which 60 % are not billed: not once more at the price of spot.
    assert row.usd == pytest.approx(2 * 3.0 * 0.4, abs=0.02)
    assert (row.usd_low, row.usd_high, row.final) == (row.usd, row.usd, True)
    assert row.hours == pytest.approx(2, abs=0.01)
    asked = world.cloud.faults.calls["DescribeTrainingJob"]
    assert only(world) == row
    assert world.cloud.faults.calls["DescribeTrainingJob"] == asked, "a final bill is kept"


def test_a_warm_pool_is_billed_until_it_ends(world):
    record = run(world, "warm-abc", aws={"keep_alive_minutes": 30})
    record.training_began = record.attempt_began = record.training_began - timedelta(hours=1)
    world.cloud.finish("warm-abc")
    record.keep_warm(record.training_ended, 4)
    row = only(world)
    assert row.usd == pytest.approx(1.5, abs=0.01)
    assert not row.final, "the pool still costs"
    record.warm_until = record.training_ended + timedelta(seconds=900)
    world.cloud.clock.advance(1000)
    row = only(world)
    assert row.usd == pytest.approx(1.5 + 1.5 / 4, abs=0.01)
    assert row.final


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_fallback_is_billed_at_its_own_price(world, nodes):
    """The plan has the price of all its machines together."""
    plan = aws_builders.aws_plan(world.folder, nodes=nodes)
    other = aws_builders.candidate(plan, "ml.g6.2xlarge", usd=5.0, hours=2.0)
    launch_id = f"other-{nodes}"
    record = run(world, launch_id, nodes=nodes, update={"fallbacks": (other,), "candidates": (other,)})
    assert [one["InstanceType"] for one in record.resources["InstancePreferences"]] == ["ml.g5.2xlarge", "ml.g6.2xlarge"]
    record.selected = "ml.g6.2xlarge"
    record.training_began = record.attempt_began = record.training_began - timedelta(hours=1)
    world.cloud.finish(launch_id)
    assert only(world).usd == pytest.approx(2.5, abs=0.01)


def test_a_count_that_comes_late_is_waited_for(world):
    world.cloud.account.quirks.late_billable = True
    record = run(world, "late-abc")
    record.training_began = record.attempt_began = record.training_began - timedelta(hours=1)
    world.cloud.finish("late-abc")
    row = only(world)
    assert row.usd == pytest.approx(1.5, abs=0.01), "until then the time on the clock stands for it"
    assert not row.final
    world.cloud.account.quirks.late_billable = False
    row = only(world)
    assert row.usd == pytest.approx(1.5, abs=0.01)
    assert row.final


def test_a_job_that_was_deleted_keeps_what_was_last_seen(world):
    run(world, "gone-abc")
    world.cloud.finish("gone-abc")
    world.service.poll([world.service.find(LaunchId("gone-abc"))])
    cost(world.session)
    launches = len(cost(world.session).rows)
    del world.cloud.sagemaker.records["gone-abc"]
    assert len(cost(world.session).rows) == launches


def described(**changes):
    body = {"TrainingJobName": "x", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "LastModifiedTime": NOW}
    return {**body, "OutputDataConfig": {"S3OutputPath": "s3://b/p"}, **changes}


def test_a_job_that_never_got_a_machine_costs_nothing_and_that_is_final():
    bill = bill_of(described(FailureReason="CapacityError: sold out"), NOW)
    assert (bill.billable_seconds, bill.final) == (0.0, True)


def test_a_count_that_never_comes_is_given_up_after_a_day():
    times = {"TrainingStartTime": NOW - timedelta(hours=3), "TrainingEndTime": NOW - timedelta(hours=1)}
    assert not bill_of(described(**times), NOW).final
    bill = bill_of(described(**times), NOW + timedelta(hours=24))
    assert (bill.billable_seconds, bill.final) == (7200.0, True)


def test_a_reading_tells_the_time_on_the_machine_and_not_the_discounted_one():
    seen = seen_of(
        described(TrainingJobStatus="Completed", SecondaryStatus="Completed", TrainingTimeInSeconds=100, BillableTimeInSeconds=40)
    )
    assert seen.trained == 100
