"""One training job as the service remembers it: what was asked, where it stands, how it got there. Runs nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

TERMINAL: Final = frozenset({"Completed", "Failed", "Stopped"})
_ECHOED: Final = (
    "TrainingJobName", "AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition",
    "VpcConfig", "EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining", "CheckpointConfig",
    "Environment", "RetryStrategy", "HyperParameters", "TensorBoardOutputConfig", "InfraCheckConfig",
)  # fmt: skip
REASON_LETTERS: Final = 1024


@dataclass
class Asked:
    """What somebody wants of a running job: a stop by the user, the loss of its spot machine, a scripted end."""

    stop: bool = False
    interrupt: bool = False
    end: str = ""


@dataclass
class Record:
    """A job. Times are the stand-in's clock; everything is read and written under ``lock``."""

    request: dict[str, Any]
    arn: str
    created: datetime
    tags: list[dict[str, str]]
    status: str = "InProgress"
    secondary: str = "Starting"
    modified: datetime = field(default=datetime.min.replace(tzinfo=UTC))
    training_began: datetime | None = None
    training_ended: datetime | None = None
    transitions: list[dict[str, Any]] = field(default_factory=list)
    failure_reason: str = ""
    artifacts: str = ""
    selected: str = ""
    training_seconds: float = 0.0
    """Of finished attempts."""
    attempt_began: datetime | None = None
    attempts: int = 0
    asked: Asked = field(default_factory=Asked)
    warm_until: datetime | None = None
    reused_by: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    @property
    def spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def resources(self) -> dict[str, Any]:
        return dict(self.request.get("ResourceConfig") or {})

    @property
    def hosts(self) -> int:
        return int(self.resources.get("InstanceCount") or 1)

    def types(self) -> list[str]:
        """Instance types in the order of preference."""
        preferred = [str(one["InstanceType"]) for one in self.resources.get("InstancePreferences") or ()]
        return preferred or [str(self.resources.get("InstanceType"))]

    def move(self, secondary: str, message: str, now: datetime, *, status: str = "") -> None:
        """Enter a secondary status; a transition that is open ends."""
        with self.lock:
            if self.ended:
                return
            if self.transitions and self.transitions[-1]["Status"] == secondary and not status:
                self.transitions[-1]["StatusMessage"] = message
                self.modified = now
                return
            if self.transitions:
                self.transitions[-1]["EndTime"] = now.timestamp()
            self.transitions.append({"Status": secondary, "StartTime": now.timestamp(), "StatusMessage": message})
            self.secondary, self.modified = secondary, now
            self.status = status or self.status
            if status in TERMINAL:
                self.transitions[-1]["EndTime"] = now.timestamp()

    def ran(self, now: datetime) -> float:
        """Seconds of training over all attempts."""
        with self.lock:
            return self.training_seconds + ((now - self.attempt_began).total_seconds() if self.attempt_began else 0.0)

    def end_attempt(self, now: datetime) -> None:
        with self.lock:
            self.training_seconds = self.ran(now)
            self.attempt_began = None

    def keep_warm(self, now: datetime, quota: int) -> None:
        """Keep the machines from now on, when that was asked for and ``quota`` machines are allowed."""
        keep = int(self.resources.get("KeepAlivePeriodInSeconds") or 0)
        self.warm_until = now + timedelta(seconds=keep) if keep and quota >= self.hosts else None

    def summary(self, now: datetime) -> dict[str, Any]:
        """As ListTrainingJobs shows it."""
        with self.lock:
            shown = {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "CreationTime": self.created.timestamp(),
                "LastModifiedTime": self.modified.timestamp(),
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
                **({"TrainingEndTime": self.training_ended.timestamp()} if self.training_ended else {}),
            }
            return {**shown, **self._warm(now)}

    def describe(self, now: datetime, *, saving: float, late_billable: bool, unknown: str) -> dict[str, Any]:
        """As DescribeTrainingJob shows it: without tags, with the environment, billable seconds only at the end."""
        with self.lock:
            shown: dict[str, Any] = {key: self.request[key] for key in _ECHOED if key in self.request}
            shown.update(self.summary(now))
            shown["SecondaryStatusTransitions"] = [dict(one) for one in self.transitions]
            if unknown and self.secondary == "Training":
                shown["SecondaryStatus"] = unknown
            for key, value in (("TrainingStartTime", self.training_began), ("TrainingEndTime", self.training_ended)):
                if value is not None:
                    shown[key] = value.timestamp()
            shown["ModelArtifacts"] = {"S3ModelArtifacts": self.artifacts}
            if self.failure_reason:
                shown["FailureReason"] = self.failure_reason[:REASON_LETTERS]
            if self.ended and self.training_began is not None and not late_billable:
                shown["TrainingTimeInSeconds"] = round(self.training_seconds)
                shown["BillableTimeInSeconds"] = round(self.training_seconds * (1 - saving if self.spot else 1))
            if self.selected and self.resources.get("InstancePreferences"):
                chosen = {"SelectedInstanceType": self.selected, "SelectedInstanceCount": self.hosts}
                shown["ResourceConfig"] = {**self.resources, **chosen}
            return shown

    def _warm(self, now: datetime) -> dict[str, Any]:
        """The pool that a finished job keeps: billed until it is reused or lapses."""
        if self.warm_until is None or self.training_ended is None:
            return {}
        state = "Reused" if self.reused_by else "Available" if now < self.warm_until else "Terminated"
        end = now if state == "Available" else self.warm_until
        pool: dict[str, Any] = {"Status": state}
        if state != "Available":
            pool["ResourceRetainedBillableTimeInSeconds"] = round((end - self.training_ended).total_seconds())
        return {"WarmPoolStatus": {**pool, **({"ReusedByJob": self.reused_by} if self.reused_by else {})}}
