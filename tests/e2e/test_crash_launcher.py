"""kill -9 of the launcher at seeded instants between Enter and the first training step.

Whatever the instant: never two trainers, never a running trainer that ps does not know, never a ledger that needs a
hand. Half of the instants are lines of our own code (so that every write point is met), half are times. The launcher is
a fork of this process, so that an instant is not spent on starting Python; a few are started from nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudtune.job import JobState, LaunchId
from cloudtune.verbs.jobs import ps
from cloudtune.verbs.launch import launch
from cloudtune.verbs.reconcile import GIVEN_UP
from tests import builders
from tests.killing import LineCounter

OPTIONS = ["--steps", "4", "--pause", "0.02", "--prepare", "0.05"]
CRITICAL = ("/ledger/", "/providers/local/", "/verbs/launch.py", "/verbs/reconcile.py", "/filelock.py", "/job.py")
"""Where an instant matters; lines elsewhere (reading sources, hashing) have no effect yet."""
FROM_NOTHING = """
import sys
from pathlib import Path
from tests import builders
from cloudtune.verbs.launch import launch
home, data, launch_id, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
with builders.session(home, options) as session:
    launch(builders.plan(data), session=session, launch_id=launch_id)
"""


class World:
    """One home for all crashes, so that what one leaves behind meets the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.starts = folder / "starts"
        self.starts.touch()
        self.options = [*OPTIONS, "--starts", str(self.starts)]
        self.plan = builders.plan(folder)
        self.lines = 0
        self.seconds = 0.0

    def launcher(self, launch_id: str, die_at_line: int | None = None) -> int:
        """Fork a launcher in its own process group; returns its process id."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setpgid(0, 0)
            if die_at_line is not None:
                sys.settrace(_killer(die_at_line))
            with builders.session(self.home, self.options) as session:
                launch(self.plan, session=session, launch_id=launch_id)
        finally:
            os._exit(0)

    def started(self, launch_id: str) -> int:
        return [line.split()[0] for line in self.starts.read_text().splitlines()].count(launch_id)

    def measure(self) -> None:
        """Lines and seconds of an undisturbed launch up to the first step."""
        counter = LineCounter(CRITICAL)
        began = time.monotonic()
        sys.settrace(counter)
        try:
            with builders.session(self.home, self.options) as session:
                launch(self.plan, session=session, launch_id="measure-aaa")
        finally:
            sys.settrace(None)
        self.lines = counter.lines
        self.seconds = time.monotonic() - began + 0.15


def _killer(limit: int) -> LineCounter:
    return LineCounter(CRITICAL, limit)


def crash(world: World, seed: int) -> str:
    """One launcher killed at the seed's instant; returns its launch id."""
    random_ = random.Random(seed)
    launch_id = f"crash-{seed:04d}"
    if seed % 10 == 9:
        arguments = [str(world.home), str(world.folder), launch_id, *world.options]
        program = subprocess.Popen([sys.executable, "-c", FROM_NOTHING, *arguments], process_group=0)
        time.sleep(random_.uniform(0, 1.2))
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    elif seed % 2:
        pid = world.launcher(launch_id)
        time.sleep(random_.uniform(0, world.seconds))
        kill = os.killpg if seed % 4 == 1 else os.kill
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it had not made its group yet
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    else:
        pid = world.launcher(launch_id, random_.randint(1, world.lines))
        os.waitpid(pid, 0)
    return launch_id


def check(world: World, launch_id: str) -> JobState | None:
    """The three promises, right after the crash and again when everything has come to rest."""
    with builders.session(world.home, world.options) as session:
        listing = ps(session)
        assert not listing.problems
        view = session.ledger.view(LaunchId(launch_id))
        started = world.started(launch_id)
        if view is None or view.state is JobState.FAILED:
            assert view is None or view.message == GIVEN_UP
            time.sleep(0.15)  # whatever was on its way has time to appear
            assert world.started(launch_id) == 0
            return None if view is None else view.state
        assert view.ref is not None, "an open launch is confirmed once ps has run"
        assert started <= 1
        deadline = time.monotonic() + 30
        while not (view := next(job for job in ps(session) if job.id == launch_id)).ended:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert world.started(launch_id) == 1
        return view.state


@pytest.mark.parametrize("seeds", [pytest.param(range(20), id="20"), pytest.param(range(100, 200), id="100", marks=pytest.mark.full)])
def test_a_killed_launcher_leaves_one_job_or_none(tmp_path, seeds):
    world = World(tmp_path)
    world.measure()
    outcomes: dict[str, int] = {}
    for seed in seeds:
        outcome = check(world, crash(world, seed))
        outcomes[str(outcome)] = outcomes.get(str(outcome), 0) + 1
    print(f"{world.lines} critical lines, {world.seconds:.2f} s to the first step: {outcomes}")
    assert set(outcomes) <= {"None", "failed", "succeeded"}
    assert len(outcomes) > 1, "the instants must hit different phases"
    assert len(set(world.starts.read_text().split()[::2])) == len(world.starts.read_text().splitlines())
    with sqlite3.connect(world.home / "ledger.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    with builders.session(world.home, world.options) as session:
        assert [view.id for view in session.ledger.views(is_open=True)] == []
        launch(world.plan, session=session, launch_id="afterwards-aaa")
    assert list((world.home / "launching").iterdir()) == [], "locks of launchers are removed"
