"""What a local job's files mean: the words of this provider, and each word as a JobState. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cloudtune.job import JobState
from cloudtune.providers.local.supervisor import INTERRUPTED_CODE

if TYPE_CHECKING:
    from cloudtune.providers.local.folder import Sight


class LocalState(StrEnum):
    """This provider's own words."""

    ABSENT = "absent"
    ACCEPTED = "accepted"
    STARTED = "started"
    TRAINING = "training"
    STOPPING = "stopping"
    CUT_OFF = "cut-off"
    COMPLETE = "complete"
    BROKEN = "broken"
    KILLED = "killed"
    VANISHED = "vanished"
    STOPPED = "stopped"
    OUT_OF_TIME = "out-of-time"


STATES: dict[str, JobState] = {
    LocalState.ABSENT: JobState.LOST,
    LocalState.ACCEPTED: JobState.QUEUED,
    LocalState.STARTED: JobState.STARTING,
    LocalState.TRAINING: JobState.RUNNING,
    LocalState.STOPPING: JobState.STOPPING,
    LocalState.CUT_OFF: JobState.INTERRUPTED,
    LocalState.COMPLETE: JobState.SUCCEEDED,
    LocalState.BROKEN: JobState.FAILED,
    LocalState.KILLED: JobState.FAILED,
    LocalState.VANISHED: JobState.FAILED,
    LocalState.STOPPED: JobState.STOPPED,
    LocalState.OUT_OF_TIME: JobState.STOPPED,
}


def job_state(native: str) -> JobState:
    """Our word for this provider's; UNKNOWN for a word that is not in the table."""
    return STATES.get(native, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The native state, one sentence about it (may be empty), and the trainer's exit code when it has ended."""

    native: LocalState
    message: str = ""
    exit_code: int | None = None


def judge(sight: Sight, outcome: str | None, *, has_metrics: bool) -> Verdict:
    """What a job is doing, from what was seen. ``outcome``: of its manifest, None without one."""
    if not sight.known or sight.fenced:
        return Verdict(LocalState.ABSENT, "this machine has no such job")
    if sight.started is None:
        return Verdict(LocalState.ACCEPTED) if sight.alive else Verdict(LocalState.ABSENT, "the job was never started")
    if sight.exit is not None:
        return _ended(sight, outcome)
    if sight.alive:
        if sight.stop_asked:
            return Verdict(LocalState.STOPPING)
        return Verdict(LocalState.TRAINING if has_metrics else LocalState.STARTED)
    return _vanished(sight, outcome)


def _ended(sight: Sight, outcome: str | None) -> Verdict:
    record = sight.exit or {}
    code, reason = record.get("code"), record.get("reason")
    if reason == "spawn_failed":
        return Verdict(LocalState.BROKEN, f"the trainer could not be started: {record.get('message', '')}", 127)
    if code == 0 and outcome == "complete":
        return Verdict(LocalState.COMPLETE, "", 0)
    if reason == "stopped" or (sight.stop_asked and code == INTERRUPTED_CODE):
        return Verdict(LocalState.STOPPED, "stopped on request", code)
    if reason == "time_limit" or (code == 0 and outcome == "stopped"):
        return Verdict(LocalState.OUT_OF_TIME, "the time limit was reached", code)
    if code == INTERRUPTED_CODE:
        return Verdict(LocalState.CUT_OFF, "interrupted; a checkpoint to go on from was saved", code)
    if code == 0:
        return Verdict(LocalState.BROKEN, "the trainer ended without writing its manifest", code)
    if record.get("signal"):
        return Verdict(LocalState.KILLED, _signal_sentence(int(record["signal"])), code)
    return Verdict(LocalState.BROKEN, f"the trainer ended with exit code {code}", code)


def _vanished(sight: Sight, outcome: str | None) -> Verdict:
    """Nobody wrote down how it ended: the supervisor was killed, or the machine went down."""
    if outcome == "complete":
        return Verdict(LocalState.COMPLETE, "", 0)
    if sight.stop_asked:
        return Verdict(LocalState.STOPPED, "stopped on request")
    if outcome == "interrupted" or sight.can_go_on:
        return Verdict(LocalState.CUT_OFF, "the machine or the job's supervisor went down; a checkpoint is there", INTERRUPTED_CODE)
    return Verdict(LocalState.VANISHED, "the machine or the job's supervisor went down before the job ended", 137)


def _signal_sentence(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = "; on a machine that runs out of memory the system does this" if number == signal.SIGKILL else ""
    return f"the trainer was killed by {name}{hint}"
