"""SageMaker under the laws of a JobService: the real boto3 against the stand-in. Not a test itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

from cloudtune.clock import SystemClock
from cloudtune.job import LaunchId
from cloudtune.providers.aws.client import Regions
from cloudtune.providers.aws.jobs import AwsJobs
from cloudtune.providers.aws.logs import AwsLogs
from cloudtune.providers.aws.readings import seen_of
from cloudtune.providers.aws.request import build_request
from cloudtune.providers.aws.tables import SECONDARY, STATUSES
from cloudtune.providers.base import Staged
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.wire.aws import Pace
from tests.contract.job_service import JobServiceWorld
from tests.unit import aws_builders

QUICK = Pace(3, 5, 20)
"""Three attempts; the patience is for a busy machine, not for the stand-in."""
IMPATIENT = Pace(3, 1, 1)
DATA = "data/rows.jsonl"


@dataclass(frozen=True)
class AwsHome:
    """What the provider needs of the settings."""

    home: Path
    cache: Path
    aws_role: str | None
    aws_bucket: str | None
    aws_region: str | None = None
    aws_profile: str | None = None


class AwsWorld(JobServiceWorld):
    deadline_seconds = 6.0

    def __init__(self, folder: Path, cloud: AwsStandin, *, least_seconds: float = 0.0) -> None:
        self.folder = folder
        self.cloud = cloud
        self.settings = AwsHome(folder / "home", folder / "cache", cloud.role, cloud.bucket)
        self.regions = Regions(self.settings.home)
        self.logs = AwsLogs(self.regions, SystemClock(), QUICK, settle_seconds=0.2)
        self._service = AwsJobs(self.regions, SystemClock(), self.logs, poll=QUICK, create=QUICK, least_seconds=least_seconds)
        self.regions.login("us-east-1").client("s3").put_object(Bucket=cloud.bucket, Key=DATA, Body=b"{}\n")

    @property
    def service(self) -> AwsJobs:
        return self._service

    def request(self, launch_id, *, variant="a", **changes):
        plan = aws_builders.aws_plan(self.folder, **changes)
        folder = f"s3://{self.cloud.bucket}/data/"
        staged = Staged((variant * 64)[:64], dict.fromkeys(("job", "train", "code"), folder))
        return build_request(plan, staged, LaunchId(launch_id), self.settings)

    def count_jobs(self, launch_id):
        return len(self.cloud.jobs(launch_id))

    def lose_reply(self, request):
        """Accepted, and the connection dropped; whoever asked gives up at once."""
        self.cloud.faults.add("CreateTrainingJob", "lost_reply")
        impatient = self.regions.login("us-east-1").client("sagemaker", pace=Pace(1, 1, 1))
        self.regions.record("us-east-1")
        with pytest.raises(BotoCoreError, match="Connection"):
            impatient.create_training_job(**request.body)

    def finish(self, ref):
        self.cloud.finish(ref.name)

    def native_words(self):
        return [*STATUSES, *(f"InProgress/{word}" for word in SECONDARY if word not in STATUSES)]

    def state_of(self, native):
        status, _, secondary = native.partition("/")
        return seen_of({"TrainingJobStatus": status, "SecondaryStatus": secondary, "TrainingJobName": "x"}).state

    def break_down(self):
        self.cloud.faults.add("*", "error500", None)

    def fall_silent(self, launch_id):  # noqa: ARG002
        self.cloud.faults.add("*", "silent", None)
        self._service = AwsJobs(self.regions, SystemClock(), poll=IMPATIENT, create=IMPATIENT)

    def expire_login(self):
        self.cloud.faults.add("*", "expired", None)
        return True
