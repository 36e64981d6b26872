"""A provider that plays a script: for tests, and for trying code written against the SDK without any machine.

It keeps the same laws as the real ones (tests/contract) and starts nothing. What a job says next, and which calls
fail and how, is given beforehand; jobs live as long as the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from cloudtune.errors import AuthError, NotFoundError, ProviderError, RejectedError, ThrottledError, UnavailableError
from cloudtune.job import JobRef, JobState, LaunchId, Progress, Reading
from cloudtune.providers.base import LogLine, LogPage, Place, Request, Staged

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.clock import Clock
    from cloudtune.planning.plan import Plan
    from cloudtune.rendering.bundle import Bundle

NAME = "scripted"


class ScriptedState(StrEnum):
    """The provider's own words."""

    WAITING = "WAITING"
    BOOTING = "BOOTING"
    WORKING = "WORKING"
    PREEMPTED = "PREEMPTED"
    SAVING = "SAVING"
    ENDING = "ENDING"
    DONE = "DONE"
    BROKEN = "BROKEN"
    ENDED = "ENDED"


STATES: dict[str, JobState] = {
    ScriptedState.WAITING: JobState.QUEUED,
    ScriptedState.BOOTING: JobState.STARTING,
    ScriptedState.WORKING: JobState.RUNNING,
    ScriptedState.PREEMPTED: JobState.INTERRUPTED,
    ScriptedState.SAVING: JobState.UPLOADING,
    ScriptedState.ENDING: JobState.STOPPING,
    ScriptedState.DONE: JobState.SUCCEEDED,
    ScriptedState.BROKEN: JobState.FAILED,
    ScriptedState.ENDED: JobState.STOPPED,
}


def job_state(native: str) -> JobState:
    """Our word for this provider's; UNKNOWN for a word that is not in the table."""
    return STATES.get(native, JobState.UNKNOWN)


class Fault(StrEnum):
    """How a call can fail. LOST_REPLY does the work and then fails; HANGS waits for the deadline first."""

    NONE = "none"
    LOST_REPLY = "lost-reply"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    REJECTED = "rejected"
    LOGIN_EXPIRED = "login-expired"
    HANGS = "hangs"


class ScriptedFault(Exception):
    """What a cloud's own library would have raised: the cause of the error that our callers see."""


Call = Literal["submit", "find", "poll", "stop"]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one poll finds. ``native`` may be a word that the table does not have."""

    native: str
    message: str = ""
    exit_code: int | None = None
    progress: Progress | None = None
    outputs: str | None = None
    remains: str | None = None
    billable_seconds: float | None = None


ORDINARY = tuple(Scene(word) for word in (ScriptedState.WAITING, ScriptedState.BOOTING, ScriptedState.WORKING, ScriptedState.DONE))


class ScriptedJobs:
    """A JobService and LogSource. Each poll of a job shows its next scene; the last one stays.

    ``faults``: per call, how its first, second, ... use ends; what is not listed succeeds.
    """

    def __init__(
        self,
        clock: Clock,
        scenes: Sequence[Scene] = ORDINARY,
        *,
        faults: Mapping[Call, Sequence[Fault]] | None = None,
        deadline_seconds: float = 30.0,
    ) -> None:
        self._clock = clock
        self._scenes = tuple(scenes)
        self._faults = {call: list(kinds) for call, kinds in (faults or {}).items()}
        self._deadline = deadline_seconds
        self._jobs: dict[LaunchId, Request] = {}
        self._position: dict[LaunchId, int] = {}
        self._ended: dict[LaunchId, Scene] = {}
        self.calls: list[Call] = []
        """Every call so far, in order."""

    def submit(self, request: Request) -> JobRef:
        fault = self._begin("submit")
        known = self._jobs.setdefault(request.launch_id, request)
        if known.body != request.body:
            raise RejectedError(f"{request.launch_id} already names another job", code="launch-id-taken", hint="launch without a job id")
        self._lose_reply(fault)
        return _ref(request.launch_id)

    def find(self, launch_id: LaunchId) -> JobRef | None:
        self._lose_reply(self._begin("find"))
        return _ref(launch_id) if launch_id in self._jobs else None

    def poll(self, refs: Sequence[JobRef]) -> Sequence[Reading]:
        self._lose_reply(self._begin("poll"))
        return [self._reading(ref) for ref in refs]

    def stop(self, ref: JobRef) -> None:
        fault = self._begin("stop")
        launch_id = LaunchId(ref.name)
        if launch_id not in self._jobs:
            raise NotFoundError("there is no such job", where=str(ref), hint="list the jobs with: cloudtune ps")
        if not job_state(self._scene(launch_id).native).terminal:
            self._ended[launch_id] = Scene(ScriptedState.ENDED, message="stopped on request")
        self._lose_reply(fault)

    def read(self, ref: JobRef, cursor: str | None) -> LogPage:
        """One log line for every scene shown so far."""
        seen = self._position.get(LaunchId(ref.name), 0)
        lines = tuple(LogLine(f"scene {number}") for number in range(int(cursor or 0), seen))
        return LogPage(lines, str(seen), done=job_state(self._scene(LaunchId(ref.name)).native).terminal)

    def _begin(self, call: Call) -> Fault:
        """Count the call and fail as the script says, before anything is done."""
        self.calls.append(call)
        planned = self._faults.get(call)
        fault = planned.pop(0) if planned else Fault.NONE
        if fault is Fault.HANGS:
            self._clock.sleep(self._deadline)
        if fault not in (Fault.NONE, Fault.LOST_REPLY):
            raise _error(fault) from ScriptedFault(fault.value)
        return fault

    def _lose_reply(self, fault: Fault) -> None:
        if fault is Fault.LOST_REPLY:
            raise _error(fault) from ScriptedFault(fault.value)

    def _scene(self, launch_id: LaunchId) -> Scene:
        position = min(self._position.get(launch_id, 0), len(self._scenes) - 1)
        return self._ended.get(launch_id, self._scenes[position])

    def _reading(self, ref: JobRef) -> Reading:
        launch_id = LaunchId(ref.name)
        if ref != _ref(launch_id) or launch_id not in self._jobs:
            return Reading(ref, JobState.LOST, "", message="there is no such job")
        scene = self._scene(launch_id)
        if not job_state(scene.native).terminal:
            self._position[launch_id] = self._position.get(launch_id, 0) + 1
        return Reading(
            ref,
            job_state(scene.native),
            scene.native,
            message=scene.message,
            exit_code=scene.exit_code,
            outputs=scene.outputs,
            remains=scene.remains,
            billable_seconds=scene.billable_seconds,
            progress=scene.progress,
        )


class ScriptedStager:
    """Stages nothing: everything is where the script wants it."""

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        progress(f"nothing to stage for {plan.recipe.name}")
        return Staged(bundle.digest)


def build_request(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
    """The request of a scripted job."""
    return Request(NAME, launch_id, {"recipe": plan.recipe.name, "bundle": staged.digest})


def scripted_place(jobs: ScriptedJobs) -> Place:
    """A place without preflight, fence or choice of grace: the least that a provider can be."""
    return Place(NAME, build_request, jobs, ScriptedStager(), logs=jobs)


def _ref(launch_id: LaunchId) -> JobRef:
    return JobRef(NAME, "stage", launch_id)


def _error(fault: Fault) -> ProviderError:
    return _ERRORS[fault]()


_AGAIN = "try again in a moment"
_ERRORS: dict[Fault, Callable[[], ProviderError]] = {
    Fault.LOST_REPLY: lambda: UnavailableError("the connection broke before the answer came", hint=_AGAIN),
    Fault.THROTTLED: lambda: ThrottledError("too many calls", hint=_AGAIN),
    Fault.UNAVAILABLE: lambda: UnavailableError("the service is down", hint=_AGAIN),
    Fault.HANGS: lambda: UnavailableError("the service did not answer in time", hint=_AGAIN),
    Fault.REJECTED: lambda: RejectedError("the request is not allowed", hint="change the recipe"),
    Fault.LOGIN_EXPIRED: lambda: AuthError("the login has expired", code="login", hint="log in again"),
}
