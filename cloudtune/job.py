"""The words of a job's life: launch ids, job references, states, readings, events and their fold. Pure values.

A job is named by a launch id that we choose before we call anybody. Its life:

    planned → staged → submitting → queued → starting → running ⇄ interrupted → uploading
            → succeeded | failed | stopped → collected

``lost`` says that the provider does not know the job, ``unknown`` that it used a word we do not know;
neither ends the job. The current state is a fold over the ledger's events, see ``fold``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal, NewType

from cloudtune.errors import UsageError

LaunchId = NewType("LaunchId", str)

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter that reads like a digit
_LAUNCH_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,50}[a-z0-9])?")
_REF = re.compile(r"(?P<provider>[a-z]+)://(?P<place>[^/\s]+)/(?P<name>[^/\s]+)")


def new_launch_id(recipe_name: str) -> LaunchId:
    """``<recipe name>-<10 random letters>``: at most 51 characters, legal as a job name on every provider."""
    import secrets  # here and not above: ps, which people type all day, needs none of it

    return LaunchId(f"{recipe_name}-{''.join(secrets.choice(_ALPHABET) for _ in range(10))}")


def parse_launch_id(text: str) -> LaunchId:
    """``text`` as a launch id. Raises UsageError for anything that could not be one."""
    if not _LAUNCH_ID.fullmatch(text):
        hint = "an id is 1 to 52 of a-z, 0-9 and -, no - at its ends; list the jobs with: cloudtune ps"
        raise UsageError(f"{text!r} is not a job id", hint=hint)
    return LaunchId(text)


class JobState(StrEnum):
    """One word for every provider; ``terminal`` states never change back."""

    PLANNED = "planned"
    STAGED = "staged"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    UPLOADING = "uploading"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    COLLECTED = "collected"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.COLLECTED})


@dataclass(frozen=True, slots=True)
class JobRef:
    """Where a job runs, as a URL that people can paste: ``local://this-machine/quickstart-ab12...``."""

    WRITTEN_AS_TEXT: ClassVar[bool] = True  # in JSON too

    provider: str
    place: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}://{self.place}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> JobRef:
        """The inverse of ``str``. Raises UsageError when ``text`` is no job URL."""
        match = _REF.fullmatch(text)
        if not match:
            raise UsageError(f"{text!r} is not a job URL", hint="a job URL looks like local://this-machine/quickstart-ab12cd34ef")
        return cls(**match.groupdict())


@dataclass(frozen=True, slots=True)
class Progress:
    """What the trainer last said of itself. Unknown values are None; ``tokens_per_second`` counts trained sequences' tokens."""

    phase: str
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    elapsed_seconds: float | None = None
    eta_seconds: float | None = None
    losses: tuple[float, ...] = ()
    """Recent training losses, oldest first, for a sparkline."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One poll's answer for one job. ``native_state`` is the provider's own word, ``at`` when it last changed (UTC)."""

    ref: JobRef
    state: JobState
    native_state: str
    at: datetime | None = None
    message: str = ""
    exit_code: int | None = None
    outputs: str | None = None
    """URI of the folder with the manifest and artifacts, when there is one."""
    remains: str | None = None
    """URI of the job's own folder (log, metrics, checkpoints), there whatever the outcome."""
    billable_seconds: float | None = None
    progress: Progress | None = None


EventKind = Literal["intended", "confirmed", "resumed", "reading", "stop_requested", "abandoned", "collected", "cost", "measured", "note"]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the ledger: something happened to ``launch_id`` at ``at`` (UTC); never changed after it is written."""

    launch_id: LaunchId
    kind: EventKind
    at: datetime
    body: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0


@dataclass(frozen=True, slots=True)
class JobView:
    """The current state of one launch: the fold of its events."""

    id: LaunchId
    state: JobState
    provider: str
    recipe: str
    created: datetime | None = None
    updated: datetime | None = None
    ref: JobRef | None = None
    native_state: str = ""
    message: str = ""
    exit_code: int | None = None
    outputs: str | None = None
    remains: str | None = None
    output_dir: str = ""
    """Absolute folder that results are collected into, below a folder named like the job."""
    collected_to: str | None = None
    stop_requested: bool = False
    stop_reason: str = ""
    progress: Progress | None = None
    billable_seconds: float | None = None

    @property
    def ended(self) -> bool:
        """Nothing runs and nothing will run by itself: a terminal state, or interrupted with its process gone."""
        return self.state.terminal or (self.state is JobState.INTERRUPTED and self.exit_code is not None)


def start(launch_id: LaunchId, provider: str, recipe: str) -> JobView:
    """The view of a launch without any event."""
    return JobView(id=launch_id, state=JobState.PLANNED, provider=provider, recipe=recipe)


def fold(view: JobView, events: Iterable[Event]) -> JobView:
    """Apply ``events`` in order. Terminal states never change back, except to ``collected``."""
    for event in events:
        view = _apply(view, event)
    return view


def _apply(view: JobView, event: Event) -> JobView:
    body, state = event.body, view.state
    touched = replace(view, updated=event.at)
    match event.kind:
        case "intended":
            first = JobState.SUBMITTING if state is JobState.PLANNED else state
            return replace(touched, created=event.at, state=first, output_dir=str(body.get("output_dir", "")))
        case "confirmed":
            waiting = state in (JobState.PLANNED, JobState.SUBMITTING)
            return replace(touched, ref=JobRef.parse(body["ref"]), state=JobState.QUEUED if waiting else state)
        case "resumed":
            return replace(touched, state=JobState.QUEUED, message="", exit_code=None) if view.state is JobState.INTERRUPTED else touched
        case "reading":
            return _read(touched, body)
        case "stop_requested":
            reason = str(body.get("reason", ""))
            return replace(touched, stop_requested=True, stop_reason=reason, state=state if state.terminal else JobState.STOPPING)
        case "abandoned":
            begun = view.state.terminal or view.ref is not None
            return view if begun else replace(touched, state=JobState.FAILED, message=str(body.get("message", "")))
        case "collected":
            # A failed job stays failed, also when its remains were brought home.
            done = state is JobState.SUCCEEDED
            return replace(touched, state=JobState.COLLECTED if done else state, collected_to=str(body.get("to", "")))
        case "cost" | "measured" | "note":
            return touched


def _read(view: JobView, body: Mapping[str, Any]) -> JobView:
    state = JobState(body["state"])
    if view.state.terminal:
        return view
    if view.stop_requested and not state.terminal:
        state = JobState.STOPPING
    progress = body.get("progress")
    return replace(
        view,
        state=state,
        native_state=str(body.get("native_state", "")),
        message=str(body.get("message", "")),
        exit_code=body.get("exit_code"),
        outputs=body.get("outputs") or view.outputs,
        remains=body.get("remains") or view.remains,
        billable_seconds=body.get("billable_seconds", view.billable_seconds),
        progress=progress_from(progress) if progress else view.progress,
    )


def progress_from(body: Mapping[str, Any]) -> Progress:
    """The inverse of ``dataclasses.asdict`` on a Progress that went through JSON."""
    return Progress(**{**body, "losses": tuple(body.get("losses", ()))})


def reading_body(reading: Reading) -> dict[str, Any]:
    """A reading as plain JSON values: the body of a ``reading`` event."""
    body = asdict(reading)
    del body["ref"]
    body["state"] = reading.state.value
    body["at"] = reading.at.isoformat() if reading.at else None
    return {key: value for key, value in body.items() if value not in (None, "")}


_PARTS = 200
"""A run's progress is kept in so many parts, so that a day's training is hundreds of events and not tens of thousands."""


def changed(body: Mapping[str, Any]) -> str:
    """What makes one reading different from the last: a digest of everything in its body but the time and rates.

    Two pollers that see the same job at about the same step have the same digest, so the ledger keeps one event.
    """
    import hashlib  # here and not above: every command imports this module and few write readings
    import json

    progress = body.get("progress") or {}
    step, total = progress.get("step"), progress.get("total_steps")
    part = step // max(1, total // _PARTS) if step is not None and total else step
    telling = [progress.get("phase"), part, total, progress.get("eval_loss")]
    facts = {key: value for key, value in body.items() if key not in ("progress", "at", "billable_seconds")}
    return hashlib.sha256(json.dumps([facts, telling], sort_keys=True).encode()).hexdigest()[:24]
