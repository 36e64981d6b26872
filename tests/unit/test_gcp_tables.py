"""Vertex AI's words as ours: every state of the service, the reasons of failures, every error code that the project knows."""

import pytest

from cloudtune.errors import (
    AuthError,
    CapacityError,
    NotFoundError,
    ProviderError,
    QuotaError,
    RejectedError,
    ThrottledError,
    UnavailableError,
)
from cloudtune.job import JobState
from cloudtune.providers.gcp.tables import ERRORS, STATES, error_from, job_state, meaning, native_state, quota_metric

FINAL = {4, 5, 7, 9, 11}


def test_every_state_has_a_meaning_and_only_final_ones_end_a_job():
    assert set(STATES) == set(range(12))
    for value in STATES:
        told = meaning(value)
        assert told.state is not JobState.UNKNOWN
        assert told.state.terminal is (value in FINAL)
        assert told.sentence
        assert job_state(native_state(value)) is told.state


def test_a_state_of_next_year_ends_nothing():
    assert meaning(77).state is JobState.UNKNOWN
    assert native_state(77) == "JOB_STATE_77"
    assert job_state("JOB_STATE_77") is JobState.UNKNOWN


def test_a_job_that_waits_again_was_interrupted():
    assert meaning(2).state is JobState.STARTING
    assert meaning(2, started=True).state is JobState.INTERRUPTED
    assert meaning(1, started=True).state is JobState.INTERRUPTED


def test_a_long_wait_says_that_quota_may_be_short():
    assert "quota" not in meaning(1, waited_seconds=60).message
    assert "quota" in meaning(1, waited_seconds=3600).message.lower()


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (8, "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus",
         "custom_model_training_nvidia_l4_gpus"),
        (8, "Resource exhausted", "quota or machines ran out"),
        (3, "The replica workerpool0-0 exited with a non-zero status of 1.", "trainer failed"),
        (3, "The replica workerpool0-0 exited with a non-zero status of 137.", "want of memory"),
        (9, "Resources are insufficient in region: us-central1. Please try a different region", "sold out"),
        (3, "Failed to pull image us-docker.pkg.dev/p/r/x: manifest unknown", "image could not be fetched"),
        (7, "Permission denied on service account", "may not do"),
        (13, "Internal error occurred for the current attempt.", "on its side"),
        (0, "", "the job has failed"),
        (2, "something new", "something new"),
    ],
)  # fmt: skip
def test_failures_say_what_to_do(code, text, words):
    told = meaning(5, code=code, text=text)
    assert told.state is JobState.FAILED
    assert words in told.message
    assert told.next_step


def test_the_time_limit_is_no_failure():
    for value in (5, 7):
        told = meaning(value, code=4, text="CustomJob timed out: it exceeded its running time")
        assert told.state is JobState.STOPPED
        assert "cloudtune collect" in told.message


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("RESOURCE_EXHAUSTED", "quota metrics exceed limits: aiplatform.googleapis.com/custom_model_training_cpus", QuotaError),
        ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Job requests' and limit 'Job requests per minute'", ThrottledError),
        ("RESOURCE_EXHAUSTED", "Resources are insufficient in region us-central1", CapacityError),
        ("RESOURCE_EXHAUSTED", "", ThrottledError),
        ("UNAVAILABLE", "connection refused", UnavailableError),
        ("UNAVAILABLE", "Getting metadata from plugin failed with error: ('invalid_grant: Bad Request')", AuthError),
        ("UNAUTHENTICATED", "Request had invalid authentication credentials", AuthError),
        ("PERMISSION_DENIED", "Permission 'aiplatform.customJobs.create' denied", AuthError),
        ("NOT_FOUND", "not found", NotFoundError),
        ("INVALID_ARGUMENT", "machine type is not supported", RejectedError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", UnavailableError),
        ("A_NEW_ONE", "hm", ProviderError),
    ],
)  # fmt: skip
def test_errors(name, text, kind):
    error = error_from(name, text, where="x")
    assert type(error) is kind
    assert error.hint
    assert error.where == "x"


def test_every_known_code_makes_an_error_with_a_hint():
    assert len(ERRORS) >= 14
    assert all(error_from(name, "text").hint for name in ERRORS)
    assert quota_metric("no metric here") == ""
