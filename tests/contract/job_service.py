"""The seven laws of a JobService, as tests that every provider inherits.

A provider's file supplies ``world``: a JobServiceWorld with its real service behind it. Nothing here names a provider.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

import pytest

from cloudtune.errors import CloudtuneError, NotFoundError
from cloudtune.job import JobRef, JobState, LaunchId
from cloudtune.providers.base import JobService, Request

DEADLINE_MARGIN = 5.0


class JobServiceWorld(ABC):
    """A service under test and what a test must be able to make happen in its world."""

    deadline_seconds: float

    @property
    @abstractmethod
    def service(self) -> JobService: ...

    @abstractmethod
    def request(self, launch_id: str, *, variant: str = "a") -> Request:
        """A request for a job that runs until it is stopped or ``finish``ed; other variants are other jobs."""

    @abstractmethod
    def count_jobs(self, launch_id: str) -> int:
        """How many jobs of this launch the provider ever started."""

    @abstractmethod
    def lose_reply(self, request: Request) -> None:
        """Submit so that the job is accepted and the caller never hears of it."""

    @abstractmethod
    def finish(self, ref: JobRef) -> None:
        """Let the job come to its successful end and return when it has."""

    @abstractmethod
    def native_words(self) -> Iterable[str]:
        """Every state of the provider's own enumeration."""

    @abstractmethod
    def state_of(self, native: str) -> JobState:
        """The provider's state table."""

    @abstractmethod
    def break_down(self) -> None:
        """Make every later call fail in the provider's own way."""

    @abstractmethod
    def fall_silent(self, launch_id: str) -> None:
        """Make ``find(launch_id)`` get no answer."""

    def expire_login(self) -> bool:
        """Make every later call fail for want of a login; False where there is none to expire."""
        return False


def wait_for(world: JobServiceWorld, ref: JobRef, *states: JobState, seconds: float = 30) -> JobState:
    """Poll until the job is in one of ``states``."""
    deadline = time.monotonic() + seconds
    while (state := world.service.poll([ref])[0].state) not in states:
        assert time.monotonic() < deadline, f"still {state}"
        time.sleep(0.02)
    return state


class JobServiceLaws:
    """Inherit, and supply the fixture ``world``."""

    def test_1_the_same_request_twice_is_one_job(self, world):
        request = world.request("twice-abc")
        assert world.service.submit(request) == world.service.submit(request)
        assert world.count_jobs("twice-abc") == 1

    def test_1_another_request_under_the_same_id_is_refused(self, world):
        world.service.submit(world.request("taken-abc"))
        with pytest.raises(CloudtuneError) as caught:
            world.service.submit(world.request("taken-abc", variant="b"))
        assert caught.value.code == "launch-id-taken"
        assert world.count_jobs("taken-abc") == 1

    def test_2_a_lost_reply_is_found(self, world):
        request = world.request("lost-abc")
        world.lose_reply(request)
        ref = world.service.find(LaunchId("lost-abc"))
        assert ref is not None
        assert world.service.submit(request) == ref
        assert world.count_jobs("lost-abc") == 1

    def test_2_an_unknown_launch_is_not_found(self, world):
        assert world.service.find(LaunchId("nobody-abc")) is None

    def test_3_poll_keeps_order_and_loses_only_the_unknown(self, world):
        first, last = (world.service.submit(world.request(name)) for name in ("first-abc", "last-abc"))
        stranger = JobRef(first.provider, first.place, "stranger-abc")
        refs = [last, stranger, first, last]
        readings = world.service.poll(refs)
        assert [reading.ref for reading in readings] == refs
        assert [reading.state is JobState.LOST for reading in readings] == [False, True, False, False]
        assert list(world.service.poll([])) == []

    def test_3_an_unknown_word_is_unknown(self, world):
        assert world.state_of("a-word-of-next-year") is JobState.UNKNOWN

    def test_4_the_table_covers_every_native_state(self, world):
        words = list(world.native_words())
        assert len(words) >= 5
        assert [word for word in words if world.state_of(word) is JobState.UNKNOWN] == []
        reached = {world.state_of(word) for word in words}
        assert {JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED} <= reached

    def test_5_stop_is_idempotent(self, world):
        ref = world.service.submit(world.request("stop-abc"))
        for _ in range(3):
            world.service.stop(ref)
        assert wait_for(world, ref, JobState.STOPPED) is JobState.STOPPED
        world.service.stop(ref)
        assert world.service.poll([ref])[0].state is JobState.STOPPED

    def test_5_a_finished_job_stays_finished(self, world):
        ref = world.service.submit(world.request("done-abc"))
        world.finish(ref)
        for _ in range(2):
            world.service.stop(ref)
            assert world.service.poll([ref])[0].state is JobState.SUCCEEDED
        assert world.service.submit(world.request("done-abc")) == ref
        assert world.count_jobs("done-abc") == 1

    def test_5_stopping_a_stranger_says_so(self, world):
        known = world.service.submit(world.request("known-abc"))
        with pytest.raises(NotFoundError):
            world.service.stop(JobRef(known.provider, known.place, "stranger-abc"))

    def test_6_errors_are_ours_and_keep_their_cause(self, world):
        request = world.request("broken-abc")
        world.break_down()
        for call in (lambda: world.service.submit(request), lambda: world.service.find(LaunchId("broken-abc"))):
            with pytest.raises(CloudtuneError) as caught:
                call()
            assert caught.value.code
            assert caught.value.hint
            assert caught.value.__cause__ is not None

    def test_6_an_expired_login_is_not_worth_another_try(self, world):
        if not world.expire_login():
            pytest.skip("this provider has no login")
        with pytest.raises(CloudtuneError) as caught:
            world.service.find(LaunchId("login-abc"))
        assert not caught.value.retryable

    def test_7_every_call_has_a_deadline(self, world):
        world.fall_silent("silent-abc")
        began = time.monotonic()
        with pytest.raises(CloudtuneError) as caught:
            world.service.find(LaunchId("silent-abc"))
        assert caught.value.retryable
        assert time.monotonic() - began < world.deadline_seconds + DEADLINE_MARGIN
