"""A job as the service shows it, and the small files that it leaves in the bucket → a Reading. Pure.

Progress and reasons come from files below the job's folder, which need no permission to read logs. The service has no
count of what it bills: the time from the first RUNNING to the end stands in, in steps of 30 s. For spot that is an upper
bound, because the time between two machines is not billed and the service does not tell it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cloudtune.cost import billed_seconds
from cloudtune.job import JobRef, JobState, Reading
from cloudtune.providers.gcp.tables import STATES, meaning, native_state
from cloudtune.providers.progress import progress_of

if TYPE_CHECKING:
    from datetime import datetime

    from cloudtune.job import Progress
    from cloudtune.providers.gcp.client import Seen

REASON_SECONDS: Final = 90.0
"""The service writes a job's error about a minute after its end; until then a failure without a reason is not told."""
METRICS: Final = "output/data/metrics.jsonl"
FAILURE: Final = "output/failure"
STATUS: Final = "output/data/status.json"
_SENTENCE: Final = 500
_WAITING: Final = "the job has ended; the service tells its reason within two minutes"


@dataclass(frozen=True, slots=True)
class Files:
    """What was read of the job's small files; empty where there is none."""

    metrics: bytes = b""
    failure: bytes = b""
    status: bytes = b""


def wanted_files(seen: Seen) -> tuple[str, ...]:
    """Which files a reading of this job needs."""
    state = STATES[seen.state][1].state if seen.state in STATES else JobState.UNKNOWN
    if state is JobState.FAILED:
        return (METRICS, FAILURE, STATUS)
    if state in (JobState.RUNNING, JobState.STOPPING) or state.terminal:
        return (METRICS, STATUS) if state.terminal else (METRICS,)
    return ()


def is_final(seen: Seen) -> bool:
    """Whether the job is over for the service."""
    return seen.state in STATES and STATES[seen.state][1].state.terminal


def reading_of(ref: JobRef, seen: Seen, files: Files, now: datetime) -> Reading:
    """The reading of one job at ``now`` (UTC)."""
    ended = seen.ended or now
    meant = meaning(
        seen.state,
        started=seen.started is not None,
        code=seen.code,
        text="the job timed out" if _over_time(seen) else seen.text,
        waited_seconds=(now - seen.created).total_seconds(),
    )
    state, message = meant.state, meant.message.replace("JOB", ref.name)
    reason = files.failure.decode(errors="replace").strip().partition("\n")[0][:_SENTENCE]
    if state is JobState.FAILED and reason:
        message = reason
    elif state is JobState.FAILED and not seen.text and seen.ended and abs((now - seen.ended).total_seconds()) < REASON_SECONDS:
        state, message = JobState.UPLOADING, _WAITING
    newest = progress_of(files.metrics)
    return Reading(
        ref=ref,
        state=state,
        native_state=native_state(seen.state),
        at=seen.ended or seen.updated,
        message="" if state in (JobState.RUNNING, JobState.SUCCEEDED) else message,
        exit_code=_exit_code(files.status) if state.terminal else None,
        outputs=f"{seen.base}/model" if seen.base else None,
        remains=seen.base or None,
        billable_seconds=billed_seconds((ended - seen.started).total_seconds()) if seen.started else 0.0,
        progress=_at_rest(newest[0]) if newest and state.terminal else newest[0] if newest else None,
    )


def lost(ref: JobRef, *, young: bool) -> Reading:
    """The reading of a job that the service does not show. ``young``: it was just created, and lists may lag."""
    if young:
        return Reading(ref, JobState.UNKNOWN, "not listed yet", message="the service does not show the job yet")
    return Reading(
        ref, JobState.LOST, "absent", message="Vertex AI does not know the job: it was deleted, or the login is for another project"
    )


def _over_time(seen: Seen) -> bool:
    """Whether a cancelled job was cancelled by its own time limit: the service says the same of both."""
    if seen.started is None or seen.ended is None or not seen.timeout_seconds:
        return False
    return native_state(seen.state) == "JOB_STATE_CANCELLED" and (seen.ended - seen.started).total_seconds() >= seen.timeout_seconds


def _exit_code(status: bytes) -> int | None:
    try:
        code = json.loads(status)["exit_code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, int) else None


def _at_rest(progress: Progress) -> Progress:
    return replace(progress, eta_seconds=None)
