"""Vertex AI's words as ours: job states, error codes of calls and of ended jobs, each with a sentence and what to do. Pure.

States read 2026-11-23 from google-cloud-aiplatform 2.7.0 (JobState). A value that is not in the table is UNKNOWN, which ends
nothing. A shortage of quota has three shapes: a refused create (429), a job that fails with code 8, and a job that stays
queued; ``quota_metric`` finds the metric's name in the first two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cloudtune.errors import (
    AuthError,
    CapacityError,
    CloudtuneError,
    NotFoundError,
    ProviderError,
    QuotaError,
    RejectedError,
    ThrottledError,
    UnavailableError,
)
from cloudtune.job import JobState
from cloudtune.providers.meaning import COLLECT, LOGS, Meaning

_QUOTA_PAGE = "console > IAM & Admin > Quotas, service aiplatform.googleapis.com"

STATES: Final[dict[int, tuple[str, Meaning]]] = {
    0: ("JOB_STATE_UNSPECIFIED", Meaning(JobState.QUEUED, "the service does not say yet what the job does")),
    1: ("JOB_STATE_QUEUED", Meaning(JobState.QUEUED, "the job waits, which costs nothing")),
    2: ("JOB_STATE_PENDING", Meaning(JobState.STARTING, "machines are being prepared")),
    3: ("JOB_STATE_RUNNING", Meaning(JobState.RUNNING, "the job trains")),
    4: ("JOB_STATE_SUCCEEDED", Meaning(JobState.SUCCEEDED, "the job has ended well", "bring the result home with: cloudtune collect JOB")),
    5: ("JOB_STATE_FAILED", Meaning(JobState.FAILED, "the job has failed", LOGS)),
    6: ("JOB_STATE_CANCELLING", Meaning(JobState.STOPPING, "the job is being stopped; its machines are billed until they are gone")),
    7: ("JOB_STATE_CANCELLED", Meaning(JobState.STOPPED, "the job was stopped", COLLECT)),
    8: ("JOB_STATE_PAUSED", Meaning(JobState.QUEUED, "the service has paused the job")),
    9: ("JOB_STATE_EXPIRED", Meaning(JobState.STOPPED, "the job was ended at one of its time limits", COLLECT)),
    10: ("JOB_STATE_UPDATING", Meaning(JobState.RUNNING, "the job is being changed while it runs")),
    11: ("JOB_STATE_PARTIALLY_SUCCEEDED", Meaning(JobState.FAILED, "the job has ended with a part of its results", COLLECT)),
}
_BY_NAME: Final = dict(STATES.values())
LONG_WAIT_SECONDS: Final = 1_800
"""A job queued for longer is usually short of quota (the third shape) or of machines."""


def native_state(value: int) -> str:
    """The service's name for a state; numbers that this version does not know are shown as numbers."""
    return STATES[value][0] if value in STATES else f"JOB_STATE_{value}"


def job_state(name: str) -> JobState:
    """Our word for the service's; UNKNOWN for what is not in the table."""
    known = _BY_NAME.get(name)
    return known.state if known else JobState.UNKNOWN


def meaning(value: int, *, started: bool = False, code: int = 0, text: str = "", waited_seconds: float = 0.0) -> Meaning:
    """What a state means together with the job's error (``code``, ``text``), whether it ever ran, and how long it has waited."""
    if value not in STATES:
        return Meaning(JobState.UNKNOWN, f"the service uses the state {value}, which this version does not know")
    known = STATES[value][1]
    if known.state is JobState.FAILED:
        return _failure(known, code, text)
    if known.state in (JobState.QUEUED, JobState.STARTING) and started:
        return Meaning(JobState.INTERRUPTED, "the machine was taken away", "wait: the service starts the job again, from its checkpoint")
    if known.state is JobState.STOPPED and _TIMED_OUT.search(text):
        return _OVER_TIME
    if known.state is JobState.QUEUED and waited_seconds > LONG_WAIT_SECONDS:
        return Meaning(known.state, "the job has waited for long, as jobs do without quota or machines", f"look at {_QUOTA_PAGE}")
    return known


_TIMED_OUT = re.compile(r"tim(ed|e) ?out|exceeded.{0,40}(time|duration)|deadline", re.IGNORECASE)
_OVER_TIME = Meaning(
    JobState.STOPPED,
    "the job was stopped at its time limit, which follows from budget and max_hours",
    "bring its checkpoints home with: cloudtune collect JOB, or raise budget.max_usd or compute.max_hours and launch again",
)
_SHOWN = 300  # letters of the service's own text
_ELSEWHERE = "launch again later, in another region, or with --set compute.purchase=flex_start, which waits for machines"
# Words in the error's text, then what they mean; the first that matches is taken.
FAILURES: Final[tuple[tuple[str, str, str], ...]] = (
    (r"resources are insufficient|stockout|out of capacity|zone_resource_pool_exhausted", "the machine type is sold out", _ELSEWHERE),
    (r"quota", "the project's quota is too small", f"ask for more at {_QUOTA_PAGE}"),
    (r"image|pull|manifest unknown|artifact ?registry", "the image could not be fetched",
     "the Vertex AI service agent pulls it, not the job's account: give it roles/artifactregistry.reader on the repository"),
    (r"service account|actas|permission|denied", "the job may not do what it needs", "see: cloudtune doctor --provider gcp"),
    (r"137|out.of.memory|oom", "the trainer was killed, usually for want of memory", "choose a larger machine or a smaller batch"),
    (r"non-?zero (exit )?status|exited with", "the trainer failed", LOGS),
    (r"internal error", "the service failed on its side", "launch again; it is not the recipe's fault"),
)  # fmt: skip


def _failure(known: Meaning, code: int, text: str) -> Meaning:
    said = " ".join(text.split())[:_SHOWN]
    if _TIMED_OUT.search(said):
        return _OVER_TIME
    if code == 8:
        metric = quota_metric(said)
        step = f"ask for more of {metric} at {_QUOTA_PAGE}" if metric else f"ask for more at {_QUOTA_PAGE}, or {_ELSEWHERE}"
        return Meaning(JobState.FAILED, f"quota or machines ran out: {said}" if said else "quota or machines ran out", step)
    for words, sentence, step in FAILURES:
        if said and re.search(words, said, re.IGNORECASE):
            return Meaning(JobState.FAILED, f"{sentence}: {said}", step)
    return Meaning(JobState.FAILED, f"{known.sentence}: {said}" if said else known.sentence, known.next_step)


_LOGIN = "log in again (gcloud auth application-default login) and run the command again; a job that was started goes on"
_REFUSED = "ask for the permission that the sentence names; roles are printed by: cloudtune doctor --provider gcp --print-policy"
_AGAIN = "wait a moment; it is tried again by itself"
_Maker = Callable[..., CloudtuneError]

# gRPC's names; over REST the HTTP status is translated to them by the library.
ERRORS: Final[dict[str, tuple[_Maker, str]]] = {
    "UNAUTHENTICATED": (AuthError, _LOGIN),
    "PERMISSION_DENIED": (AuthError, _REFUSED),
    "NOT_FOUND": (NotFoundError, "check project and region with: cloudtune doctor --provider gcp"),
    "INVALID_ARGUMENT": (RejectedError, "see what is sent with: cloudtune render RECIPE --provider gcp --target request"),
    "FAILED_PRECONDITION": (RejectedError, "see what is set up with: cloudtune doctor --provider gcp"),
    "ALREADY_EXISTS": (RejectedError, "launch without a job id"),
    "OUT_OF_RANGE": (RejectedError, "see what is sent with: cloudtune render RECIPE --provider gcp --target request"),
    "UNIMPLEMENTED": (RejectedError, "is gcp_endpoint the address of Vertex AI?"),
    "ABORTED": (UnavailableError, _AGAIN),
    "INTERNAL": (UnavailableError, _AGAIN),
    "UNAVAILABLE": (UnavailableError, _AGAIN),
    "UNKNOWN": (UnavailableError, _AGAIN),
    "DEADLINE_EXCEEDED": (UnavailableError, _AGAIN),
    "CANCELLED": (UnavailableError, _AGAIN),
}
# A dead login over gRPC looks like a dead network: the credential plugin fails and the call is UNAVAILABLE.
_DEAD_LOGIN = re.compile(r"getting metadata from plugin failed|reauth|invalid_grant|invalid_rapt|default credentials", re.IGNORECASE)
_METRIC = re.compile(r"(?:aiplatform\.googleapis\.com/)?(?P<metric>(?:custom_model_training|restricted_image_training)_[a-z0-9_]+)")
_RATE = re.compile(r"per (minute|second)|requests|rate", re.IGNORECASE)
_SOLD_OUT = re.compile(r"resources are insufficient|stockout|out of capacity", re.IGNORECASE)


def error_from(name: str, message: str, *, where: str = "") -> CloudtuneError:
    """Our error for a code and sentence of the service. Only ThrottledError and UnavailableError are worth another try."""
    said = " ".join(message.split())[:_SHOWN] or name
    if _DEAD_LOGIN.search(message):
        return AuthError(f"the login to Google Cloud has expired or is missing: {said}", where=where, code="login", hint=_LOGIN)
    if name == "RESOURCE_EXHAUSTED":
        return _exhausted(said, message, where)
    if name in ERRORS:
        make, hint = ERRORS[name]
        return make(said, where=where, hint=hint)
    return ProviderError(f"{name}: {said}", where=where, hint="see what is set up with: cloudtune doctor --provider gcp")


def quota_metric(text: str) -> str:
    """The quota that a sentence names, or an empty string."""
    match = _METRIC.search(text)
    return match["metric"] if match else ""


def _exhausted(said: str, message: str, where: str) -> CloudtuneError:
    """429 is quota (its metric is named), machines that are sold out, or only too many calls a minute."""
    metric = quota_metric(message)
    if metric:
        return QuotaError(
            said, where=where, hint=f"ask for more of {metric} at {_QUOTA_PAGE} (not Compute Engine's quota); or choose another purchase"
        )
    if _SOLD_OUT.search(message):
        return CapacityError(said, where=where, hint=_ELSEWHERE)
    if "quota" in message.lower() and not _RATE.search(message):
        return QuotaError(said, where=where, hint=f"ask for more at {_QUOTA_PAGE} (not Compute Engine's quota); or choose another purchase")
    return ThrottledError(said, where=where, hint=_AGAIN)
