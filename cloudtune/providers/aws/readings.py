"""DescribeTrainingJob's answer → what we keep of a job, and a Reading of it. Pure.

Money runs from TrainingStartTime (before the image is fetched) to TrainingEndTime; a reading tells that time. The bill
tells BillableTimeInSeconds, the service's own count, which comes late and is, for spot, already less the discount: it goes
with the on-demand price, a reading's time with the price of the plan.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cloudtune.job import JobRef, JobState, Reading
from cloudtune.providers.aws.tables import meaning, native_state
from cloudtune.providers.base import Bill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudtune.job import Progress

_EXIT: Final = re.compile(r"exit code:?\s*(\d{1,3})", re.IGNORECASE)
LOST_MESSAGE: Final = "SageMaker does not know the job: it was deleted, or the login is for another account"


@dataclass(frozen=True, slots=True)
class Seen:
    """One job as it was last described: few and small values, because there may be thousands."""

    stamp: tuple[str, str, datetime | None]
    """Status, secondary status and LastModifiedTime: equal stamps mean that nothing has changed."""
    state: JobState
    native: str
    message: str
    outputs: str
    remains: str
    changed: datetime | None
    started: datetime | None = None
    ended: datetime | None = None
    trained: float | None = None
    exit_code: int | None = None

    @property
    def settled(self) -> bool:
        """Over, with nothing left that could still change in a reading."""
        return self.state.terminal


def seen_of(answer: Mapping[str, Any]) -> Seen:
    """What is kept of DescribeTrainingJob's ``answer``."""
    status, secondary = str(answer.get("TrainingJobStatus", "")), str(answer.get("SecondaryStatus", ""))
    reason, name = str(answer.get("FailureReason", "")), str(answer.get("TrainingJobName", ""))
    meant = meaning(status, secondary, reason)
    root = f"{str(answer.get('OutputDataConfig', {}).get('S3OutputPath', '')).rstrip('/')}/{name}"
    code = _EXIT.search(reason)
    trained = answer.get("TrainingTimeInSeconds")
    return Seen(
        stamp=(status, secondary, answer.get("LastModifiedTime")),
        state=meant.state,
        native=native_state(status, secondary),
        message=_message(answer, meant.message, meant.state).replace("JOB", name),
        outputs=_folder(answer.get("ModelArtifacts", {}).get("S3ModelArtifacts") or f"{root}/output/model"),
        remains=_folder(root),
        changed=answer.get("LastModifiedTime"),
        started=answer.get("TrainingStartTime"),
        ended=answer.get("TrainingEndTime"),
        trained=float(trained) if trained is not None else None,
        exit_code=int(code[1]) if code and meant.state is JobState.FAILED else None,
    )


def _message(answer: Mapping[str, Any], sentence: str, state: JobState) -> str:
    """What a state means and what to do; nothing while all goes well. While it waits, what the service says of it."""
    if state in (JobState.RUNNING, JobState.SUCCEEDED):
        return ""
    transitions = answer.get("SecondaryStatusTransitions") or [{}]
    said = str(transitions[-1].get("StatusMessage") or "")
    if "capacity" in said.lower() and not state.terminal:
        return f"{sentence} ({said[:200]})"
    return sentence


def reading_of(ref: JobRef, seen: Seen, now: datetime | None, progress: Progress | None = None) -> Reading:
    """The reading of ``ref`` at ``now``, which is the service's own clock; None when that is unknown."""
    return Reading(
        ref=ref,
        state=seen.state,
        native_state=seen.native,
        at=seen.changed.astimezone(UTC) if seen.changed else None,
        message=seen.message,
        exit_code=seen.exit_code,
        outputs=seen.outputs,
        remains=seen.remains,
        billable_seconds=billed(seen, now),
        progress=progress,
    )


def billed(seen: Seen, now: datetime | None) -> float | None:
    """Seconds of one machine that are paid for, or were so far; None before they count."""
    if seen.trained is not None and seen.state.terminal:
        return seen.trained
    end = seen.ended or now
    if seen.started is None or end is None:
        return None
    return max(0.0, (end - seen.started).total_seconds())


LATE: Final = timedelta(hours=24)
"""A count that has not come by then does not come; the time on the clock, which is never less, stands for it."""


def bill_of(answer: Mapping[str, Any], now: datetime | None) -> Bill:
    """The bill in DescribeTrainingJob's ``answer``; ``now`` is the service's own clock."""
    seen = seen_of(answer)
    config = answer.get("ResourceConfig", {})
    instance = str(config.get("SelectedInstanceType") or config.get("InstanceType") or "")
    pool = answer.get("WarmPoolStatus", {})
    retained = pool.get("ResourceRetainedBillableTimeInSeconds")
    settled = seen.state.terminal and pool.get("Status") not in ("Available", "InUse")
    billable = answer.get("BillableTimeInSeconds")
    if billable is None and seen.state.terminal:
        late = seen.changed is not None and now is not None and now - seen.changed >= LATE
        billable, settled = billed(seen, now) or 0.0, settled and (seen.started is None or late)
    return Bill(
        billable_seconds=float(billable) if billable is not None else None,
        retained_seconds=float(retained) if retained is not None else None,
        instance=instance,
        final=settled,
    )


def lost(ref: JobRef) -> Reading:
    """A job that the service does not have."""
    return Reading(ref, JobState.LOST, "absent", message=LOST_MESSAGE)


def _folder(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"
