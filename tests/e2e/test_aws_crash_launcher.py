"""kill -9 of the launcher at seeded instants of a launch at SageMaker's stand-in, which runs as a process of its own.

Whatever the instant: one job or none, never one that ``ps`` does not know once the launch has settled. Half of the
instants are lines of our own code (so that every write and every call is met), half are times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta

import boto3
import pytest

from cloudtune.clock import SystemClock
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.aws.jobs import SETTLE_SECONDS
from cloudtune.verbs.jobs import ps
from cloudtune.verbs.launch import launch
from cloudtune.verbs.reconcile import GIVEN_UP
from tests import aws_life
from tests.e2e.command import ROOT, surroundings
from tests.killing import LineCounter

CRITICAL = ("/ledger/", "/providers/aws/jobs.py", "/providers/aws/client.py", "/verbs/launch.py", "/filelock.py", "/job.py")


class Later(SystemClock):
    """The same machine after the time in which a call that was sent could still arrive."""

    def now(self):
        return super().now() + timedelta(seconds=SETTLE_SECONDS + 1)


class _Account:
    """The role of the stand-in, as aws_session asks for it."""

    def __init__(self, role):
        self.role = role


class World:
    def __init__(self, folder, environment):
        self.folder = folder
        self.account = _Account(environment["CLOUDTUNE_AWS_ROLE"])
        self.plan = aws_life.plan(folder)
        self.sagemaker = boto3.client("sagemaker")
        self.lines = 0
        self.seconds = 0.0

    def session(self, clock=None):
        return aws_life.aws_session(self.folder, self.account, clock=clock)

    def measure(self):
        """Lines and seconds of an undisturbed launch. The first one uploads; what counts is the second."""
        for launch_id in ("measure-aaa", "measure-bbb"):
            counter = LineCounter(CRITICAL)
            began = time.monotonic()
            sys.settrace(counter)
            try:
                with self.session() as session:
                    launch(self.plan, session=session, launch_id=launch_id)
            finally:
                sys.settrace(None)
            self.lines, self.seconds = counter.lines, time.monotonic() - began

    def launcher(self, launch_id, die_at_line=None):
        pid = os.fork()
        if pid:
            return pid
        try:
            if die_at_line is not None:
                sys.settrace(LineCounter(CRITICAL, die_at_line))
            with self.session() as session:
                launch(self.plan, session=session, launch_id=launch_id)
            os._exit(0)
        finally:
            os._exit(1)

    def there(self, launch_id):
        """Names of the jobs of a launch at the service."""
        found = self.sagemaker.list_training_jobs(NameContains=launch_id, MaxResults=100)
        return [job["TrainingJobName"] for job in found["TrainingJobSummaries"]]


@pytest.fixture
def world(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "cloudtune.standins.aws", "--folder", str(tmp_path / "cloud"), "--mode", "scripted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=surroundings()) as process:
        try:
            environment = json.loads(process.stdout.readline())
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            yield World(tmp_path, environment)
        finally:
            process.terminate()


def crash(world, seed):
    """One launcher killed at the seed's instant; returns its launch id."""
    random_ = random.Random(seed)
    launch_id = f"crash-{seed:04d}"
    if seed % 2:
        pid = world.launcher(launch_id)
        time.sleep(random_.uniform(0.5, 1.1) * world.seconds)
        os.kill(pid, signal.SIGKILL)
    else:
        pid = world.launcher(launch_id, random_.randint(1, world.lines))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), "an undisturbed launch works: what fails by itself is no crash"
    return launch_id


def check(world, launch_id):
    """Right after the crash nothing is given up that could still arrive; afterwards the ledger and the service agree."""
    with world.session() as session:
        assert not ps(session).problems
        view = session.ledger.view(LaunchId(launch_id))
        there = world.there(launch_id)
        assert len(there) <= 1
        if view is None:
            assert there == [], "a job without an intention in the ledger"
            return "nothing"
        if view.ref is not None:
            assert there == [launch_id]
            world.sagemaker.stop_training_job(TrainingJobName=launch_id)  # the account's quota would refuse the launches to come
            return "tracked"
        assert view.state is JobState.SUBMITTING, "given up while the call could still arrive"
        assert there == []
    with world.session(Later()) as session:
        ps(session)
        view = session.ledger.view(LaunchId(launch_id))
        assert (view.state, view.message) == (JobState.FAILED, GIVEN_UP)
        return "given up"


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(10), id="10"), pytest.param(range(100, 200), id="100", marks=[pytest.mark.full, pytest.mark.timeout(1800)])],
)
def test_a_killed_launcher_leaves_one_tracked_job_or_none(world, seeds):
    world.measure()
    outcomes = Counter(check(world, crash(world, seed)) for seed in seeds)
    print(f"{world.lines} critical lines, {world.seconds:.2f} s a launch: {dict(outcomes)}")
    assert len(outcomes) > 1, "the instants must hit different phases"
    if len(seeds) > 10:
        assert outcomes.keys() == {"nothing", "given up", "tracked"}
        assert min(outcomes.values()) >= 5
    jobs = world.sagemaker.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
    with world.session() as session:
        known = {view.id for view in session.ledger.views() if view.ref is not None}
    assert {job["TrainingJobName"] for job in jobs} == known
