"""The seam: what a place that trains must be able to do, as small Protocols. No code runs here.

``JobService`` is the whole duty. The rest are capabilities that a place has or has not; a missing one is
``None`` in its ``Place``, never a method that raises NotImplementedError.

The laws of a JobService (tests/contract/job_service.py):
1. the same request submitted twice leaves one job and returns one ref;
2. after a lost reply ``find`` returns the ref, and None for an unknown launch id;
3. ``poll`` keeps order; an unknown ref is LOST for itself only; an unknown native state is UNKNOWN;
4. the state table covers every member of the library's own enum;
5. ``stop`` is idempotent, also on a finished job; a terminal reading never changes back;
6. whatever is raised is a CloudtuneError with code and hint, and keeps its cause; expired login is not retried;
7. every call has a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cloudtune.job import JobRef, LaunchId, Reading

if TYPE_CHECKING:
    from cloudtune.errors import CloudtuneError
    from cloudtune.planning.plan import Plan
    from cloudtune.rendering.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Request:
    """The exact body that goes to a provider for one launch: plain JSON values, no secret."""

    provider: str
    launch_id: LaunchId
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Staged:
    """What a stager put in place: URIs by name (``code``, ``train``, ``image`` ...) and the bundle's digest."""

    digest: str
    uris: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's log; ``stream`` names the host or process, ``at`` is Unix seconds when known."""

    text: str
    stream: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines after a cursor, and the cursor to go on from. ``done``: the job has ended and nothing follows."""

    lines: tuple[LogLine, ...]
    cursor: str
    done: bool = False


class JobService(Protocol):
    """A place that runs training jobs."""

    def submit(self, request: Request) -> JobRef: ...
    def find(self, launch_id: LaunchId) -> JobRef | None: ...
    def poll(self, refs: Sequence[JobRef]) -> Sequence[Reading]: ...
    def stop(self, ref: JobRef) -> None: ...


class Stager(Protocol):
    """Brings bundle and data to where the job will find them; the same bundle twice is one copy."""

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged: ...


class LogSource(Protocol):
    """Reads a job's log from a cursor (None = the beginning)."""

    def read(self, ref: JobRef, cursor: str | None) -> LogPage: ...


class Preflight(Protocol):
    """Everything that can be known to fail before money is spent."""

    def check(self, plan: Plan) -> Sequence[CloudtuneError]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, such as a role or a quota: what was found; a problem also as the error that it would be.

    ``note``: it works without, or it could not be looked at and may still be right.
    """

    name: str
    verdict: Literal["ok", "note", "problem"]
    found: str
    hint: str = ""
    error: CloudtuneError | None = None


class Examiner(Protocol):
    """Looks at what a place needs of the user's account, whatever the plan. Changes nothing."""

    def examine(self) -> Sequence[Finding]: ...


@dataclass(frozen=True, slots=True)
class Bill:
    """What a provider bills for one job, per machine, in seconds; None = it has not said.

    ``billable_seconds`` at the full price, discounts already taken off; ``retained_seconds``: machines kept after the end.
    ``instance``: the type that it ran on, when the provider chose. ``final``: nothing of this will change any more.
    """

    billable_seconds: float | None = None
    retained_seconds: float | None = None
    instance: str = ""
    final: bool = False


class Billing(Protocol):
    """Says what a job that has ended costs."""

    def bill(self, ref: JobRef) -> Bill: ...


class Fence(Protocol):
    """After ``fence`` returned None, no earlier submit of this launch id can start a job any more."""

    def fence(self, launch_id: LaunchId) -> JobRef | None: ...


class Killer(Protocol):
    """Stops a job with a grace of the caller's choice: seconds between the request to end and the end by force."""

    def stop_within(self, ref: JobRef, grace_seconds: float | None) -> None: ...


class Inventory(Protocol):
    """Every job of ours that the place knows, also those that the ledger has lost."""

    def inventory(self) -> Sequence[JobRef]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A provider wired up: the request builder (pure), the job service and what else it can do.

    ``settle_seconds``: how long a job that was created may stay invisible to ``find``; no launch is given up before.
    ``counts_gaps``: the seconds that it counts of a spot job hold the unbilled time between two machines, so they are a bound.
    """

    name: str
    build_request: Callable[[Plan, Staged, LaunchId], Request]
    jobs: JobService
    stager: Stager
    logs: LogSource | None = None
    preflight: Preflight | None = None
    fence: Fence | None = None
    killer: Killer | None = None
    inventory: Inventory | None = None
    examiner: Examiner | None = None
    billing: Billing | None = None
    settle_seconds: float = 0.0
    counts_gaps: bool = False
