"""SageMaker's words as ours: states, failure reasons and error codes, each with a sentence and what to do next. Pure.

Statuses read 2026-11-23 from botocore 1.44.5 (TrainingJobStatus, SecondaryStatus). The service says that the list of
secondary statuses may grow: a word that is not in the table is UNKNOWN, which ends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
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

STATUSES: Final[dict[str, Meaning]] = {
    "InProgress": Meaning(JobState.STARTING, "the job is under way"),
    "Completed": Meaning(JobState.SUCCEEDED, "the job has ended well", "bring the result home with: cloudtune collect JOB"),
    "Failed": Meaning(JobState.FAILED, "the job has failed", LOGS),
    "Stopping": Meaning(JobState.STOPPING, "the job is being stopped, which takes up to two minutes and an upload"),
    "Stopped": Meaning(JobState.STOPPED, "the job was stopped", COLLECT),
    "Deleting": Meaning(JobState.LOST, "the job is being deleted from the account", "launch it again if it is still wanted"),
}

SECONDARY: Final[dict[str, Meaning]] = {
    "Starting": Meaning(JobState.STARTING, "machines are being prepared"),
    "Pending": Meaning(
        JobState.QUEUED, "the job waits for machines, which costs nothing", "a long wait: try other types in compute.aws.fallback_instances"
    ),
    "LaunchingMLInstances": Meaning(JobState.STARTING, "machines are being started"),
    "PreparingTrainingStack": Meaning(JobState.STARTING, "machines are being set up"),
    "DownloadingTrainingImage": Meaning(JobState.STARTING, "the image is being fetched"),
    "Downloading": Meaning(JobState.STARTING, "the data is being fetched"),
    "Training": Meaning(JobState.RUNNING, "the job trains"),
    "Updating": Meaning(JobState.RUNNING, "the job's settings are being changed while it trains"),
    "Uploading": Meaning(JobState.UPLOADING, "the result is being uploaded"),
    "Interrupted": Meaning(
        JobState.INTERRUPTED, "the spot machine was taken away", "wait: the service goes on from the last checkpoint by itself"
    ),
    "Restarting": Meaning(JobState.STARTING, "the service had a failure of its own and starts the job again from its checkpoint"),
    "Stopping": Meaning(JobState.STOPPING, "the job is being stopped"),
    "Stopped": Meaning(JobState.STOPPED, "the job was stopped", COLLECT),
    "MaxRuntimeExceeded": Meaning(
        JobState.STOPPED, "the job was stopped at its time limit, which follows from budget and max_hours",
        "bring its checkpoints home with: cloudtune collect JOB, or raise budget.max_usd or compute.max_hours and launch again",
    ),
    "MaxWaitTimeExceeded": Meaning(
        JobState.STOPPED, "spot machines did not come in time", "launch again with --set compute.purchase=on_demand, or later"
    ),
    "Completed": Meaning(JobState.SUCCEEDED, "the job has ended well"),
    "Failed": Meaning(JobState.FAILED, "the job has failed", LOGS),
}  # fmt: skip

_CAPACITY = "launch again later, in another region, or with other types in compute.aws.fallback_instances"
_ROLE = "may the execution role read it, and is it in the job's region? cloudtune doctor --provider aws"
# Beginnings of FailureReason, then words inside those of the wide ClientError; the first that matches is taken.
FAILURES: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("CapacityError", "", "the machine type is sold out", _CAPACITY),
    ("InternalServerError", "", "the service failed on its side", "launch again; it is not the recipe's fault"),
    ("AlgorithmError", "", "the trainer failed", LOGS),
    ("ClientError", r"pull|image|manifest|ecr", "the image could not be fetched", f"check its name and registry; {_ROLE}"),
    ("ClientError", r"insufficient disk|no space", "the machine's disk is full", "raise compute.disk_gib or choose a larger machine"),
    ("ClientError", r"upload", "the result could not be uploaded", "may the execution role write to the bucket, and use its key?"),
    ("ClientError", r"assume|role|accessdenied|access denied|forbidden|not authorized", "the job may not do what it needs", _ROLE),
    ("ClientError", r"s3|data|download|object|prefix", "the data could not be fetched", _ROLE),
    ("ClientError", "", "the service says that the request was at fault", LOGS),
    ("", r"pending time|maxpendingtime", "no machine came in time", _CAPACITY),
    ("", "", "the job has failed for a reason that we do not know", LOGS),
)
PREFIXES: Final = ("AlgorithmError", "ClientError", "CapacityError", "InternalServerError")
_SHOWN = 300  # letters of the service's own text


def native_state(status: str, secondary: str = "") -> str:
    """Both words as one, such as ``InProgress/Training``."""
    return f"{status}/{secondary}" if secondary and secondary != status else status


def meaning(status: str, secondary: str = "", reason: str = "") -> Meaning:
    """What the two statuses and a FailureReason mean together. The first decides about an end, the second about the way there."""
    known, detail = STATUSES.get(status), SECONDARY.get(secondary)
    if known is None:
        return Meaning(JobState.UNKNOWN, f"the service uses the status {status[:40]!r}, which this version does not know")
    if status == "Failed":
        return _failure(reason)
    if status == "Stopped":
        return detail if detail is not None and detail.state is JobState.STOPPED else known
    if status != "InProgress" or not secondary:
        return known
    if detail is None:
        return Meaning(JobState.UNKNOWN, f"the service uses the status {secondary[:40]!r}, which this version does not know")
    return _on_its_way_out(detail) if detail.state.terminal else detail


def job_state(status: str, secondary: str = "") -> JobState:
    """Our word for the service's; UNKNOWN for what is not in the tables."""
    return meaning(status, secondary).state


def _on_its_way_out(detail: Meaning) -> Meaning:
    """The secondary status says how it ends before the first one says that it has: such a job is not over yet."""
    state = JobState.UPLOADING if detail.state is JobState.SUCCEEDED else JobState.STOPPING
    return Meaning(state, detail.sentence, detail.next_step)


def _failure(reason: str) -> Meaning:
    prefix, _, text = reason.partition(":")
    for start, words, sentence, step in FAILURES:
        if (not start or start == prefix.strip()) and (not words or re.search(words, text or reason, re.IGNORECASE)):
            said = " ".join((text or reason).split())[:_SHOWN]
            return Meaning(JobState.FAILED, f"{sentence}: {said}" if said else sentence, step)
    raise AssertionError("the last row of FAILURES matches everything")


_LOGIN = "log in again (aws sso login, or new keys) and run the command again; a job that was started goes on"
_REFUSED = "ask for the permission that the sentence names; the role and the user need it on this resource"
_Maker = Callable[..., CloudtuneError]

ERRORS: Final[dict[str, tuple[_Maker, str]]] = {
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), (partial(AuthError, code="login"), _LOGIN)
    ),
    **dict.fromkeys(
        ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"), (partial(AuthError, code="login"), _LOGIN)
    ),
    **dict.fromkeys(("SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"), (AuthError, "check keys and clock")),
    **dict.fromkeys(("AccessDeniedException", "AccessDenied", "UnauthorizedOperation"), (AuthError, _REFUSED)),
    **dict.fromkeys(
        ("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"),
        (ThrottledError, "wait a moment; it is tried again by itself"),
    ),
    **dict.fromkeys(
        ("InternalFailure", "InternalServerError", "InternalError", "ServiceUnavailable", "ServiceUnavailableException"),
        (UnavailableError, "wait a moment; it is tried again by itself"),
    ),
    "CapacityError": (CapacityError, _CAPACITY),
    "ResourceNotFound": (NotFoundError, "check names and region with: cloudtune doctor --provider aws"),
    "ResourceInUse": (RejectedError, "another job has this name: launch without a job id"),
    "ValidationException": (RejectedError, "see what is sent with: cloudtune render RECIPE --provider aws --target request"),
}
# The service names the quota inside the sentence, and uses the same code for a type that a region does not have.
_QUOTA = re.compile(r"'(?P<name>[^']*\busage)'")
_NOT_HERE = re.compile(r"not available in this region", re.IGNORECASE)
_GONE = re.compile(r"could not find|does not exist|not found", re.IGNORECASE)
_NO_TRUST = re.compile(r"could not assume role", re.IGNORECASE)
_CONSOLE = "Service Quotas console > AWS services > Amazon SageMaker"


def error_from(code: str, message: str, *, where: str = "") -> CloudtuneError:
    """Our error for a service's code and sentence. Only ThrottledError and UnavailableError are worth another try."""
    said = " ".join(message.split())[:_SHOWN] or code
    if code == "ResourceLimitExceeded":
        return _limit_exceeded(said, where)
    if code == "ValidationException" and _GONE.search(said):
        return NotFoundError(said, where=where, hint="check region and account with: cloudtune doctor --provider aws")
    if code == "ValidationException" and _NO_TRUST.search(said):
        return AuthError(
            said, where=where, code="role-trust", hint="the role must trust sagemaker.amazonaws.com; a new role needs a minute"
        )
    if code in ERRORS:
        make, hint = ERRORS[code]
        return make(said, where=where, hint=hint)
    return ProviderError(f"{code}: {said}", where=where, hint="see what is set up with: cloudtune doctor --provider aws")


def _limit_exceeded(said: str, where: str) -> CloudtuneError:
    if _NOT_HERE.search(said):
        return CapacityError(
            said, where=where, code="not-in-region", hint="choose another type or region: cloudtune plan shows what there is"
        )
    match = _QUOTA.search(said)
    quota = match["name"] if match else "the type's training job usage"
    return QuotaError(said, where=where, hint=f"ask for more at: {_CONSOLE} > {quota}; or choose another type, region or purchase")
