"""A stand-in AWS with the real boto3, and request bodies for small jobs whose programs are real. Not a test itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

from cloudtune.standins.aws.account import Account, Durations
from cloudtune.standins.aws.cloud import AwsStandin

QUICK = Durations(starting=0.05, downloading=0.05, uploading=0.05, interrupted=0.1, capacity_retry=1.0)
COUNTS = """
import os, signal, sys, time
root, steps, pause = os.environ["CLOUDTUNE_ROOT"], int(os.environ["STEPS"]), float(os.environ["PAUSE"])
place = f"{root}/checkpoints/step"
first = int(open(place).read()) if os.path.exists(place) else 0
print("from", first, flush=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
for step in range(first + 1, steps + 1):
    time.sleep(pause)
    open(place, "w").write(str(step))
    print("step", step, flush=True)
    if asked:
        print("asked to end", flush=True)
        sys.exit(143)
if os.environ.get("FAILS"):
    open(f"{root}/output/failure", "w").write("the data ran dry")
    sys.exit(3)
os.makedirs(f"{root}/output/data", exist_ok=True)
open(f"{root}/output/data/metrics.jsonl", "w").write("{}")
open(f"{root}/model/weights", "w").write("trained")
"""


def account(**quirks: Any) -> Account:
    """An account whose phases take no time to speak of."""
    found = Account(durations=QUICK)
    for name, value in quirks.items():
        setattr(found.quirks, name, value)
    return found


@dataclass
class World:
    """The stand-in and clients of the real boto3 that know it through its environment alone."""

    cloud: AwsStandin
    session: Any = None
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, name: str, attempts: int = 1) -> Any:
        """A client; ``attempts`` is botocore's total."""
        key = f"{name}-{attempts}"
        if key not in self.clients:
            environ = self.cloud.environment
            session = boto3.Session(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], region_name=environ["AWS_REGION"])
            config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=5, read_timeout=5)
            self.clients[key] = session.client(name, endpoint_url=environ["AWS_ENDPOINT_URL"], config=config)
        return self.clients[key]

    @property
    def sagemaker(self) -> Any:
        return self.client("sagemaker")

    @property
    def s3(self) -> Any:
        return self.client("s3")

    def renew(self) -> None:
        """No jobs, no faults, no settings of an earlier test; the usual program."""
        sagemaker, ours = self.cloud.sagemaker, self.cloud.account
        sagemaker.close()
        sagemaker.records.clear()
        sagemaker.accepted.clear()
        for name, value in vars(account()).items():
            setattr(ours, name, value)
        self.cloud.faults.clear()
        self.cloud.faults.calls.clear()
        self.put_program()

    def put_program(self, text: str = COUNTS) -> str:
        """The job's code in the bucket; returns the channel's URI."""
        self.s3.put_object(Bucket=self.cloud.bucket, Key="code/run.py", Body=text.encode())
        return f"s3://{self.cloud.bucket}/code/"

    def body(self, name: str, **changes: Any) -> dict[str, Any]:
        """A job of one machine that counts to STEPS; ``changes`` replace members, None takes one away, ``env`` adds variables."""
        env = {"STEPS": "3", "PAUSE": "0.01", **changes.pop("env", {})}
        algorithm = {
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/run.py"],
        }
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.cloud.bucket}/code/"}
        body = {
            "TrainingJobName": name,
            "RoleArn": self.cloud.role,
            "AlgorithmSpecification": algorithm,
            "InputDataConfig": [{"ChannelName": "code", "DataSource": {"S3DataSource": source}}],
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.cloud.bucket}/jobs", "CompressionType": "NONE"},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
            "CheckpointConfig": {"S3Uri": f"s3://{self.cloud.bucket}/jobs/{name}/checkpoints/"},
            "Environment": env,
            **changes,
        }
        return {key: value for key, value in body.items() if value is not None}

    def spot(self, name: str, **changes: Any) -> dict[str, Any]:
        times = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
        return self.body(name, EnableManagedSpotTraining=True, StoppingCondition=times, **changes)

    def create(self, body: dict[str, Any]) -> None:
        self.sagemaker.create_training_job(**body)

    def describe(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=name)
        return found

    def until(self, name: str, happened: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """Describe until ``happened`` says yes of the answer."""
        deadline = time.monotonic() + seconds
        while not happened(found := self.describe(name)):
            assert time.monotonic() < deadline, (found["TrainingJobStatus"], found["SecondaryStatus"], self.lines(name))
            time.sleep(0.05)
        return found

    def end(self, name: str, seconds: float = 60) -> dict[str, Any]:
        return self.until(name, lambda found: found["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"), seconds)

    def streams(self, name: str) -> list[str]:
        found = self.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/")
        return [str(stream["logStreamName"]) for stream in found["logStreams"]]

    def lines(self, name: str) -> list[str]:
        """Every line of every stream, streams in the order of their names."""
        logs = self.client("logs")
        return [
            str(event["message"])
            for stream in sorted(self.streams(name))
            for event in logs.get_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=stream, startFromHead=True)["events"]
        ]

    def until_line(self, name: str, line: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while line not in self.lines(name):
            assert time.monotonic() < deadline, self.lines(name)
            time.sleep(0.05)

    def keys(self, prefix: str) -> list[str]:
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket=self.cloud.bucket, Prefix=prefix).get("Contents", ())]

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.cloud.close()
