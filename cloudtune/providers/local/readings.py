"""One look at a job's folder → one Reading: state, progress, and for a failure its reason with the last lines of the log."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cloudtune.job import JobRef, JobState, Reading
from cloudtune.providers.local.folder import PROVIDER, THIS_MACHINE, JobFolder, Sight, look, read_end
from cloudtune.providers.local.tables import LocalState, Verdict, job_state, judge
from cloudtune.providers.progress import progress_of

if TYPE_CHECKING:
    from cloudtune.job import Progress

_METRICS_TAIL = 1 << 16
_LOG_TAIL = 1 << 14
_LOG_LINES = 10
_MANIFEST_LIMIT = 1 << 24
_SENTENCE = 500


def read(folder: JobFolder, ref: JobRef, now: datetime) -> Reading:
    """The reading of ``ref`` at ``now`` (UTC)."""
    if (ref.provider, ref.place) != (PROVIDER, THIS_MACHINE):
        return Reading(ref, JobState.LOST, LocalState.ABSENT, message="this machine has no such job")
    sight = look(folder)
    newest = progress_of(read_end(folder.metrics, _METRICS_TAIL))
    over = sight.started is not None and (sight.exit is not None or not sight.alive)
    verdict = judge(sight, outcome(folder) if over else None, has_metrics=newest is not None)
    state = job_state(verdict.native)
    progress, metrics_at = newest or (None, None)
    return Reading(
        ref=ref,
        state=state,
        native_state=verdict.native.value,
        at=_changed_at(sight, metrics_at),
        message=_failure(folder, verdict) if state is JobState.FAILED else verdict.message,
        exit_code=verdict.exit_code,
        outputs=folder.outputs.as_uri(),
        remains=folder.root.as_uri(),
        billable_seconds=_seconds(sight, now),
        progress=_at_rest(progress) if over else progress,
    )


def outcome(folder: JobFolder) -> str | None:
    """The manifest's own word on how the run ended; None without a readable manifest."""
    try:
        manifest = json.loads(read_end(folder.manifest, _MANIFEST_LIMIT))
    except ValueError:
        return None
    word = manifest.get("outcome") if isinstance(manifest, dict) else None
    return word if isinstance(word, str) else None


def _failure(folder: JobFolder, verdict: Verdict) -> str:
    """The reason in one line, then the last lines of the log."""
    written = read_end(folder.failure, _LOG_TAIL).decode(errors="replace").strip().partition("\n")[0]
    reason = written[:_SENTENCE] or verdict.message
    lines = [line.rpartition("\r")[2] for line in read_end(folder.log, _LOG_TAIL).decode(errors="replace").split("\n")]
    return "\n".join([reason, *[line[:_SENTENCE] for line in lines if line.strip()][-_LOG_LINES:]])


def _changed_at(sight: Sight, metrics_at: float | None) -> datetime | None:
    at = sight.exit["at"] if sight.exit else metrics_at or (sight.started["at"] if sight.started else None)
    return datetime.fromtimestamp(at, UTC) if at else None


def _seconds(sight: Sight, now: datetime) -> float | None:
    """Wall seconds that trainers of this job ran, over all its attempts."""
    if sight.started is None:
        return None
    if sight.exit is not None:
        return float(sight.exit["seconds_before"] + sight.exit["seconds"])
    since = now.timestamp() - sight.started["at"] if sight.alive else 0.0
    return float(sight.started["seconds_before"]) + max(0.0, since)


def _at_rest(progress: Progress | None) -> Progress | None:
    return replace(progress, eta_seconds=None) if progress else None
