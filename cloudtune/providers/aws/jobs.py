"""SageMaker training jobs as a JobService: submit, find, poll, stop, and every job of ours that an account has.

The service has no token against starting a job twice; the job's name is that token, and the name is our launch id. An
answer that was lost, or that says the name is taken, is settled by looking the name up and comparing the nonce.

There is no fence: nothing but a started job would keep a name from being used. What was sent by a launcher that died can
arrive for as long as its signature is good, five minutes; so long a launch is not given up (``SETTLE_SECONDS``).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import AuthError, CloudtuneError, NotFoundError, RejectedError, ThrottledError, UnavailableError
from cloudtune.job import JobRef, LaunchId, Reading
from cloudtune.providers.aws.client import REGION, Regions, asking
from cloudtune.providers.aws.readings import bill_of, lost
from cloudtune.providers.aws.watch import Watch
from cloudtune.wire.aws import CREATE, POLL, Pace, facts_of, server_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudtune.clock import Clock
    from cloudtune.providers.aws.logs import AwsLogs
    from cloudtune.providers.base import Bill, Request

PROVIDER: Final = "aws"
SETTLE_SECONDS: Final = 330.0
LEAST_SECONDS: Final = 5.0
"""Between two lists of one region; in between a poll answers with what it knows."""
_ROLE_TRIES: Final = 3
_ROLE_SECONDS: Final = 10.0
_LAUNCH_TAG: Final = "cloudtune:launch-id"


class AwsJobs:
    """A JobService, an Inventory and the Billing, over the regions of one login."""

    def __init__(
        self, regions: Regions, clock: Clock, logs: AwsLogs | None = None, *, poll: Pace = POLL, create: Pace = CREATE,
        least_seconds: float = LEAST_SECONDS,
    ) -> None:  # fmt: skip
        self._regions = regions
        self._clock = clock
        self._logs = logs
        self._poll = poll
        self._create = create
        self._least_seconds = least_seconds
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()

    def submit(self, request: Request) -> JobRef:
        """Create the job unless it is there. Raises RejectedError (``launch-id-taken``) when another job has the name."""
        region = str(request.body["Environment"]["AWS_DEFAULT_REGION"])
        self._regions.record(region)
        ref = JobRef(PROVIDER, region, request.launch_id)
        try:
            self._create_job(request, region)
        except (RejectedError, UnavailableError, ThrottledError) as error:
            if isinstance(error, RejectedError) and not _is_taken(error):
                raise
            self._settle(request, region, error)
        return ref

    def find(self, launch_id: LaunchId) -> JobRef | None:
        """The job in any region where it can be; None when none has it, or when a job of somebody else has the name."""
        for region in self._regions.known():
            answer = self._described(launch_id, region)
            if answer is not None and answer.get("Environment", {}).get("CLOUDTUNE_LAUNCH_ID") == launch_id:
                return JobRef(PROVIDER, region, launch_id)
        return None

    def poll(self, refs: Sequence[JobRef]) -> Sequence[Reading]:
        """One reading for each ref, in order. The calls depend on what has changed, not on how many jobs there are."""
        by_region: dict[str, list[JobRef]] = {}
        for ref in refs:
            if _is_ours(ref):
                by_region.setdefault(ref.place, []).append(ref)
        found = {region: self.watch(region).read(asked) for region, asked in by_region.items()}
        return [found[ref.place][ref.name] if _is_ours(ref) else lost(ref) for ref in refs]

    def stop(self, ref: JobRef) -> None:
        """Ask the service to end the job: SIGTERM, 120 seconds, then the upload. A job that has ended stays as it is."""
        if not _is_ours(ref):
            raise NotFoundError("AWS has no such job", where=str(ref), hint="list the jobs with: cloudtune ps")
        login = self._regions.login(ref.place)
        try:
            with asking(login, str(ref)):
                login.client("sagemaker", pace=self._poll).stop_training_job(TrainingJobName=ref.name)
        except RejectedError:
            # Also its way to say that the job is over; a job that is not there raises NotFoundError here.
            status = self.watch(ref.place).describe(ref.name).get("TrainingJobStatus")
            if status not in ("Completed", "Failed", "Stopped", "Stopping", "Deleting"):
                raise
        self.watch(ref.place).touch(ref.name)

    def bill(self, ref: JobRef) -> Bill:
        """What the service bills for the job. Raises NotFoundError for one that it does not have."""
        answer = self.watch(ref.place).describe(ref.name)
        return bill_of(answer, server_time(answer))

    def inventory(self) -> Sequence[JobRef]:
        """Every job with our tag in the regions that this home knows, newest last."""
        return [JobRef(PROVIDER, region, name) for region in self._regions.known() for name in self._tagged(region)]

    def watch(self, region: str) -> Watch:
        """What follows the jobs of ``region``, made once."""
        with self._lock:
            if region not in self._watches:
                login = self._regions.login(region)
                self._watches[region] = Watch(login, self._clock, self._poll, self._logs, least_seconds=self._least_seconds)
            return self._watches[region]

    def _create_job(self, request: Request, region: str) -> None:
        """The one call that spends money. A role that was made a moment ago cannot be used yet: that is waited for."""
        login = self._regions.login(region)
        for attempt in range(1, _ROLE_TRIES + 1):
            try:
                with asking(login, f"training job {request.launch_id} in {region}"):
                    login.client("sagemaker", pace=self._create).create_training_job(**request.body)
            except AuthError as error:
                if error.code != "role-trust" or attempt == _ROLE_TRIES:
                    raise
                self._clock.sleep(_ROLE_SECONDS)
            else:
                return

    def _settle(self, request: Request, region: str, error: CloudtuneError) -> None:
        """Returns when the job that has the name is the one that was asked for; raises ``error`` when there is none."""
        there = self._described(request.launch_id, region)
        if there is None:
            raise error
        if there.get("Environment", {}).get("CLOUDTUNE_NONCE") != request.body["Environment"].get("CLOUDTUNE_NONCE"):
            raise RejectedError(
                f"{request.launch_id} already names another training job in {region}",
                code="launch-id-taken",
                hint="launch without a job id",
            ) from error

    def _described(self, launch_id: LaunchId, region: str) -> dict[str, Any] | None:
        try:
            return self.watch(region).describe(launch_id)
        except NotFoundError:
            return None

    def _tagged(self, region: str) -> Iterator[str]:
        login = self._regions.login(region)
        wanted = {"Filters": [{"Name": f"Tags.{_LAUNCH_TAG}", "Operator": "Exists"}]}
        token: dict[str, str] = {}
        while True:
            with asking(login, f"the training jobs of {region}"):
                page = login.client("sagemaker", pace=self._poll).search(
                    Resource="TrainingJob", SearchExpression=wanted, SortBy="CreationTime", SortOrder="Ascending", MaxResults=100, **token
                )
            for result in page.get("Results", ()):
                yield result["TrainingJob"]["TrainingJobName"]
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}


def _is_ours(ref: JobRef) -> bool:
    return ref.provider == PROVIDER and REGION.fullmatch(ref.place) is not None


def _is_taken(error: RejectedError) -> bool:
    return error.__cause__ is not None and facts_of(error.__cause__).code == "ResourceInUse"
