"""The scripted fake keeps the laws of a JobService."""

from __future__ import annotations

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.base import Request
from cloudtune.providers.scripted import Fault, Scene, ScriptedJobs, ScriptedState, job_state
from tests.contract.job_service import JobServiceLaws, JobServiceWorld, wait_for

CALLS = ("submit", "find", "poll", "stop")


class ScriptedWorld(JobServiceWorld):
    deadline_seconds = 3.0

    def __init__(self):
        scenes = [Scene(ScriptedState.WAITING), *[Scene(ScriptedState.WORKING)] * 5, Scene(ScriptedState.DONE)]
        self._service = ScriptedJobs(VirtualClock(), scenes, deadline_seconds=self.deadline_seconds)

    @property
    def service(self):
        return self._service

    def request(self, launch_id, *, variant="a"):
        return Request("scripted", LaunchId(launch_id), {"variant": variant})

    def count_jobs(self, launch_id):
        return int(LaunchId(launch_id) in self._service._jobs)

    def _always(self, fault):
        self._service._faults = {call: [fault] * 100 for call in CALLS}

    def lose_reply(self, request):
        self._service._faults = {"submit": [Fault.LOST_REPLY]}
        with pytest.raises(Exception, match="broke"):
            self._service.submit(request)

    def finish(self, ref):
        wait_for(self, ref, JobState.SUCCEEDED)

    def native_words(self):
        return list(ScriptedState)

    def state_of(self, native):
        return job_state(native)

    def break_down(self):
        self._always(Fault.UNAVAILABLE)

    def fall_silent(self, launch_id):  # noqa: ARG002
        self._always(Fault.HANGS)

    def expire_login(self):
        self._always(Fault.LOGIN_EXPIRED)
        return True


class TestScriptedJobs(JobServiceLaws):
    @pytest.fixture
    def world(self):
        return ScriptedWorld()
