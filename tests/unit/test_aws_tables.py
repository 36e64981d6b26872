"""SageMaker's words as ours: every status of the service, every failure prefix, every error code that the project knows."""

import itertools

import pytest

from cloudtune.errors import AuthError, CapacityError, NotFoundError, ProviderError, QuotaError, RejectedError, ThrottledError
from cloudtune.job import JobState
from cloudtune.providers.aws.tables import ERRORS, PREFIXES, SECONDARY, STATUSES, error_from, job_state, meaning, native_state

# botocore 1.44.5, read 2026-11-23; test_aws_limits.py compares with the installed one (marker full).
JOB_STATUSES = ["InProgress", "Completed", "Failed", "Stopping", "Stopped", "Deleting"]
SECONDARY_STATUSES = [
    "Starting",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Downloading",
    "DownloadingTrainingImage",
    "Training",
    "Uploading",
    "Stopping",
    "Stopped",
    "MaxRuntimeExceeded",
    "Completed",
    "Failed",
    "Interrupted",
    "MaxWaitTimeExceeded",
    "Updating",
    "Restarting",
    "Pending",
]


def test_every_word_is_in_the_tables():
    assert set(JOB_STATUSES) == STATUSES.keys()
    assert set(SECONDARY_STATUSES) == SECONDARY.keys()


@pytest.mark.parametrize(("status", "secondary"), list(itertools.product(JOB_STATUSES, SECONDARY_STATUSES)))
def test_the_first_status_alone_says_that_a_job_has_ended(status, secondary):
    state = job_state(status, secondary)
    assert state is not JobState.UNKNOWN
    assert state.terminal is (status in ("Completed", "Failed", "Stopped"))
    assert meaning(status, secondary).sentence


@pytest.mark.parametrize(
    ("status", "secondary", "state"),
    [
        ("InProgress", "Pending", JobState.QUEUED), ("InProgress", "Training", JobState.RUNNING),
        ("InProgress", "Interrupted", JobState.INTERRUPTED), ("InProgress", "Uploading", JobState.UPLOADING),
        ("Stopped", "MaxRuntimeExceeded", JobState.STOPPED), ("Completed", "Completed", JobState.SUCCEEDED),
        ("InProgress", "Dreaming", JobState.UNKNOWN), ("Dreaming", "Training", JobState.UNKNOWN), ("InProgress", "", JobState.STARTING),
    ],
)  # fmt: skip
def test_states(status, secondary, state):
    assert job_state(status, secondary) is state


def test_a_job_at_its_limit_says_so_and_offers_its_checkpoints():
    told = meaning("Stopped", "MaxRuntimeExceeded").message
    assert "budget" in told
    assert "cloudtune collect" in told
    assert native_state("Stopped", "MaxRuntimeExceeded") == "Stopped/MaxRuntimeExceeded"


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("AlgorithmError: out of host memory", "trainer failed: out of host memory"),
        ("CapacityError: Unable to provision requested ML compute capacity. Please retry.", "sold out"),
        ("InternalServerError: We encountered an internal error. Please try again.", "on its side"),
        ("ClientError: Cannot pull algorithm container.", "image could not be fetched"),
        ("ClientError: Artifact upload failed:Insufficient disk space", "disk is full"),
        ("ClientError: Data download failed: No S3 objects found", "data could not be fetched"),
        ("ClientError: something new", "request was at fault"),
        ("words without a prefix", "do not know: words without a prefix"),
        ("", "do not know"),
    ],
)
def test_failure_reasons(reason, word):
    found = meaning("Failed", "Failed", reason)
    assert found.state is JobState.FAILED
    assert word in found.sentence
    assert found.next_step


def test_every_prefix_has_a_row():
    assert len({meaning("Failed", "", f"{prefix}: x").sentence for prefix in PREFIXES}) == len(PREFIXES) == 4


@pytest.mark.parametrize(
    ("code", "message", "kind", "retryable"),
    [
        ("ExpiredToken", "The security token included in the request is expired", AuthError, False),
        ("ExpiredTokenException", "expired", AuthError, False),
        ("AccessDeniedException", "not authorized to perform: iam:PassRole", AuthError, False),
        ("ThrottlingException", "Rate exceeded", ThrottledError, True),
        ("CapacityError", "sold out", CapacityError, False),
        ("ResourceInUse", "exists", RejectedError, False),
        ("ValidationException", "bad", RejectedError, False),
        ("ValidationException", "Could not find training job", NotFoundError, False),
        ("ValidationException", "Could not assume role", AuthError, False),
        ("ResourceLimitExceeded", "The requested resource training-job/ml.x is not available in this region", CapacityError, False),
        ("NeverHeard", "of it", ProviderError, False),
    ],
)
def test_error_codes(code, message, kind, retryable):
    error = error_from(code, message, where="aws://us-east-1/x")
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.hint
    assert error.where == "aws://us-east-1/x"


def test_a_quota_names_itself_and_where_to_raise_it():
    said = "The account-level service limit 'ml.g5.2xlarge for spot training job usage' is 0 Instances"
    error = error_from("ResourceLimitExceeded", said)
    assert isinstance(error, QuotaError)
    assert "Service Quotas console > AWS services > Amazon SageMaker > ml.g5.2xlarge for spot training job usage" in error.hint


def test_every_code_in_the_table_gives_an_error_with_a_hint():
    assert len(ERRORS) >= 20
    assert all(error_from(code, "said").hint for code in ERRORS)
