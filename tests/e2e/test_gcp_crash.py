"""kill -9 of the launcher at seeded instants of a launch at Vertex AI, with lists that lag 30 s behind the create.

Whatever the instant: never two jobs, never one that the ledger does not know once it has settled. The launcher is a fork of
this process (Google's libraries take seconds to import); its instant is a line of our own code on the way to the job.
"""

from __future__ import annotations

import os
import random
import sys
import time

import pytest

from cloudtune.errors import UsageError
from cloudtune.job import JobState, LaunchId
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Pace, Scene
from cloudtune.verbs.launch import launch
from cloudtune.verbs.reconcile import GIVEN_UP, reconcile
from tests.cloud_clock import CloudClock
from tests.gcp_life import gcp_session
from tests.killing import LineCounter
from tests.unit.gcp_builders import gcp_plan

CRITICAL = ("/ledger/", "/providers/gcp/", "/wire/", "/verbs/launch.py", "/verbs/reconcile.py")
LAG = 30.0
LIVE = {1, 2, 3}


class ForkedClock(CloudClock):
    """In a fork: the copy of the stand-in's clock tells the time, and cannot move the cloud's, so that sleeps are real."""

    def sleep(self, seconds):
        time.sleep(seconds)


class World:
    def __init__(self, folder, cloud):
        self.folder = folder
        self.cloud = cloud
        self.plan = gcp_plan(folder / "data")

    def session(self):
        return gcp_session(self.folder, self.cloud, CloudClock(self.cloud))

    def measure(self):
        counter = LineCounter(CRITICAL)
        with self.session() as session:
            launch(self.plan, session=session, launch_id="warm-aaa")  # the image and the files are there from now on
            sys.settrace(counter)
            try:
                launch(self.plan, session=session, launch_id="measure-aaa")
            finally:
                sys.settrace(None)
        return counter.lines

    def crash(self, launch_id, line):
        pid = os.fork()
        if pid == 0:
            try:
                sys.settrace(LineCounter(CRITICAL, line))
                with gcp_session(self.folder, self.cloud, ForkedClock(self.cloud)) as session:
                    launch(self.plan, session=session, launch_id=launch_id)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def settle(self, launch_id):
        """The job's view when the ledger has nothing open; None when the launch never began."""
        with self.session() as session:
            for _ in range(10):
                found = reconcile(session)
                assert not found.problems
                if not found.waiting:
                    return session.ledger.view(LaunchId(launch_id))
                self.cloud.clock.advance(20)
        raise AssertionError(f"{launch_id} does not settle")


@pytest.fixture
def world(tmp_path, monkeypatch):
    scene = Scene(pace=Pace(queued=1, provisioning=1, all_up=1, timed_run=10.0**9, build=1), list_lag=LAG)
    with GcpStandin.start(tmp_path / "cloud", mode="timed", scene=scene) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield World(tmp_path, cloud)


@pytest.mark.parametrize("seeds", [pytest.param(range(10), id="10"), pytest.param(range(100, 200), id="100", marks=pytest.mark.full)])
def test_a_killed_launcher_leaves_one_job_or_none(world, seeds):
    lines = world.measure()
    outcomes: dict[str, int] = {}
    for seed in seeds:
        # Half of the instants lie in the last tenth, around mark, create and confirmation.
        instant = random.Random(seed).randint(lines * 9 // 10 if seed % 2 else 1, lines)
        launch_id = f"crash-{seed:04d}"
        world.crash(launch_id, instant)
        view = world.settle(launch_id)
        jobs = world.cloud.jobs(launch_id)
        alive = [job for job in jobs if job.state in LIVE]
        if view is None or view.ref is None:
            assert alive == [], "a job runs that the ledger does not know"
            assert view is None or (view.state is JobState.FAILED and view.message == GIVEN_UP)
        else:
            assert len(alive) == 1
        again(world, launch_id, view)
        outcome = "never begun" if view is None else "given up" if view.ref is None else "one job"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{lines} critical lines: {outcomes}")
    assert len(outcomes) > 1, "the instants must hit different phases"
    with world.session() as session:
        assert [view.id for view in session.ledger.views(is_open=True) if view.ref is None] == []


def again(world, launch_id, view):
    """The same command once more: the job that there is, a new one, or a clear no; never a second."""
    with world.session() as session:
        if view is not None and view.ref is None:
            with pytest.raises(UsageError) as caught:
                launch(world.plan, session=session, launch_id=launch_id)
            assert caught.value.code == "launch-given-up"
        else:
            assert launch(world.plan, session=session, launch_id=launch_id).ref is not None
    expected = 0 if view is not None and view.ref is None else 1
    assert len([job for job in world.cloud.jobs(launch_id) if job.state in LIVE]) == expected
