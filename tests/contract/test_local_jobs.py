"""This machine keeps the laws of a JobService, with real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from cloudtune.clock import SystemClock
from cloudtune.filelock import FileLock
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.base import Request
from cloudtune.providers.local.folder import job_folder
from cloudtune.providers.local.jobs import LocalJobs
from cloudtune.providers.local.tables import LocalState, job_state
from tests.builders import STANDIN
from tests.contract.job_service import JobServiceLaws, JobServiceWorld, wait_for

SUBMIT = """
import json, sys
from pathlib import Path
from cloudtune.clock import SystemClock
from cloudtune.job import LaunchId
from cloudtune.providers.base import Request
from cloudtune.providers.local.jobs import LocalJobs
home, launch_id, body = Path(sys.argv[1]), LaunchId(sys.argv[2]), json.loads(sys.argv[3])
LocalJobs(home, home / "cache", SystemClock()).submit(Request("local", launch_id, body))
"""


class LocalWorld(JobServiceWorld):
    deadline_seconds = 2.0

    def __init__(self, folder):
        self.home = folder / "home"
        self.starts = folder / "starts"
        job = folder / "job.json"
        job.write_text("{}")
        self.inputs = {"job/job.json": job.as_uri()}
        self._service = LocalJobs(self.home, self.home / "cache", SystemClock(), deadline_seconds=self.deadline_seconds)
        self._held = []

    @property
    def service(self):
        return self._service

    def request(self, launch_id, *, variant="a"):
        steps = "4" if launch_id == "done-abc" else "100000"
        command = ["python", str(STANDIN), "--steps", steps, "--pause", "0.05", "--starts", str(self.starts)]
        return Request("local", LaunchId(launch_id), {"command": command, "inputs": self.inputs, "variant": variant, "grace_seconds": 10})

    def count_jobs(self, launch_id):
        ref = self._service.find(LaunchId(launch_id))
        assert ref is not None
        wait_for(self, ref, *(state for state in JobState if state not in (JobState.QUEUED, JobState.STARTING)))
        return [line.split()[0] for line in self.starts.read_text().splitlines()].count(launch_id)

    def lose_reply(self, request):
        arguments = [str(self.home), request.launch_id, json.dumps(dict(request.body))]
        subprocess.run([sys.executable, "-c", SUBMIT, *arguments], check=True, timeout=60)

    def finish(self, ref):
        wait_for(self, ref, JobState.SUCCEEDED)

    def native_words(self):
        return list(LocalState)

    def state_of(self, native):
        return job_state(native)

    def break_down(self):
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        (self.home / "local").write_text("a file where a folder should be")

    def fall_silent(self, launch_id):
        folder = job_folder(self.home, LaunchId(launch_id))
        folder.path.mkdir(parents=True)
        lock = FileLock.try_acquire(folder.lock)
        assert lock is not None
        self._held.append(lock)

    def close(self):
        for lock in self._held:
            lock.release()
        if (self.home / "local").is_dir():
            for ref in self._service.inventory():
                self._service.stop_within(ref, 0.0)
                wait_for(self, ref, *(state for state in JobState if state.terminal))


class TestLocalJobs(JobServiceLaws):
    @pytest.fixture
    def world(self, tmp_path):
        world = LocalWorld(tmp_path)
        yield world
        world.close()
