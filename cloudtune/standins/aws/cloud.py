"""The stand-in AWS as a whole: one local server that the real boto3 talks to through endpoint settings alone.

    with AwsStandin.start(folder) as cloud:
        os.environ.update(cloud.environment)      # boto3.client("sagemaker") now speaks to it

S3, IAM, STS, ECR, logs, Secrets Manager and CodeBuild are moto's; SageMaker, Service Quotas and prices are ours. A job's
bundle really runs: as processes (``mode="process"``), in containers of an engine, or not at all (``"scripted"``: it
trains until ``finish`` or a stop). It cannot show what real machines, images, prices and permissions would do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cloudtune.errors import UsageError
from cloudtune.standins.aws.account import ACCOUNT_ID, Account
from cloudtune.standins.aws.borrowed import ROLE, close_services, furnish, open_services
from cloudtune.standins.aws.builds import Builds
from cloudtune.standins.aws.front import OWN_AGENT, ROLE_PATH, Front, Server
from cloudtune.standins.aws.life import World
from cloudtune.standins.aws.others import Prices, Quotas
from cloudtune.standins.aws.sagemaker import SageMaker
from cloudtune.standins.clock import StandinClock
from cloudtune.standins.faults import FaultPlan
from cloudtune.standins.runner import ProcessRunner

if TYPE_CHECKING:
    from types import TracebackType

    from cloudtune.standins.aws.record import Record
    from cloudtune.standins.runner import Runner

Mode = Literal["process", "container", "scripted"]
_LOGIN: Final = {"AWS_ACCESS_KEY_ID": "AKIAREHEARSAL0000000", "AWS_SECRET_ACCESS_KEY": "of-the-stand-in"}


class AwsStandin(AbstractContextManager["AwsStandin"]):
    """A running stand-in. ``account`` holds what may be changed while it runs: quotas, capacity, durations, quirks."""

    def __init__(self, folder: Path, account: Account, clock: StandinClock, runner: Runner | None, port: int, bucket: str) -> None:
        self.account = account
        self.clock = clock
        self.faults = FaultPlan()
        self.bucket = bucket
        self._clients: list[Any] = []
        self._front = Front(open_services(), self.faults)
        self._server = Server(self._front, clock, port)
        self.url = self._server.url
        region = account.region
        s3, logs, iam = (self._own(name) for name in ("s3", "logs", "iam"))
        job_environ = {
            "AWS_REGION": region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}{ROLE_PATH}",
        }
        world = World(account, clock, s3, logs, runner or ProcessRunner(), folder, job_environ)
        self.sagemaker = SageMaker(account, world, iam, scripted=runner is None)
        self._front.serve(
            {"SageMaker": self.sagemaker, "ServiceQuotasV20190624": Quotas(account), "AWSPriceListService": Prices()}, account
        )
        self.builds = Builds(region, ACCOUNT_ID)
        furnish(s3, logs, iam, bucket=bucket, region=region)

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        mode: Mode = "process",
        speed: float = 1.0,
        account: Account | None = None,
        runner: Runner | None = None,
        port: int = 0,
        bucket: str | None = None,
    ) -> AwsStandin:
        """Start it; ``folder`` holds the machines' disks. ``bucket``: made at once; "" makes none (the launcher then makes its own).

        ``mode="container"`` needs a ``runner`` (ContainerRunner). Raises UsageError without the extra ``rehearse``.
        """
        account = account or Account()
        if mode == "container" and runner is None:
            raise UsageError("containers need a runner that knows engine and image", hint="use ContainerRunner(engine, image)")
        folder.mkdir(parents=True, exist_ok=True)
        chosen = runner if mode == "container" else None if mode == "scripted" else runner or ProcessRunner()
        name = f"sagemaker-cloudtune-{ACCOUNT_ID}-{account.region}" if bucket is None else bucket
        return cls(folder.absolute(), account, StandinClock(speed), chosen, port, name)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make boto3 and cloudtune use the stand-in, whatever profile or region this machine has."""
        region = self.account.region
        return {
            "AWS_ENDPOINT_URL": self.url,
            **_LOGIN,
            "AWS_DEFAULT_REGION": region,
            "AWS_REGION": region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "CLOUDTUNE_AWS_ROLE": self.role,
            "CLOUDTUNE_AWS_REGION": region,
            **({"CLOUDTUNE_AWS_BUCKET": self.bucket} if self.bucket else {}),
        }

    @property
    def role(self) -> str:
        return f"arn:aws:iam::{ACCOUNT_ID}:role/{ROLE}"

    def jobs(self, name: str = "") -> list[Record]:
        """Every job that was ever accepted under a name, or under any."""
        return [record for record in self.sagemaker.accepted if not name or record.name == name]

    def interrupt(self, name: str) -> None:
        """Take a spot job's machines away. Raises UsageError for a job that does not run on spot machines."""
        record = self.sagemaker.records.get(name)
        if record is None or record.ended or not record.spot:
            raise UsageError(f"{name} is no running spot job")
        record.asked.interrupt = True

    def finish(self, name: str, status: str = "Completed", reason: str = "") -> None:
        """Bring a job of mode ``scripted`` to its end."""
        self.sagemaker.finish(name, status, reason)

    def close(self) -> None:
        """End jobs and server; the machines' folders stay."""
        self.sagemaker.close()
        self._front.closing.set()
        self._server.close()
        for client in self._clients:
            client.close()
        close_services()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _own(self, service: str) -> Any:
        """A client of the stand-in itself, whose calls are neither counted nor made to fail."""
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        session.set_config_variable("profile", None)
        client = session.create_client(
            service,
            region_name=self.account.region,
            endpoint_url=self.url,
            aws_access_key_id=_LOGIN["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_LOGIN["AWS_SECRET_ACCESS_KEY"],
            config=Config(user_agent_extra=OWN_AGENT, retries={"total_max_attempts": 3}, max_pool_connections=50),
        )
        self._clients.append(client)
        return client
