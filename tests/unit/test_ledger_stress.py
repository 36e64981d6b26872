"""Many processes write one new ledger at once, some are killed while writing: every acknowledged event is there, once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from cloudtune.clock import SystemClock
from cloudtune.job import LaunchId
from cloudtune.ledger.ledger import Ledger

WRITER = """
import sys, time
from pathlib import Path
from cloudtune.clock import SystemClock
from cloudtune.job import JobRef, JobState, LaunchId, Progress, Reading
from cloudtune.ledger.ledger import Launch, Ledger

home, number, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(home, SystemClock())
own, shared = LaunchId(f"own-{number:03d}"), LaunchId("shared-aaa")
ref = JobRef("local", "this-machine", shared)
for each in (own, shared):
    ledger.intend(Launch(each, "local", "stress", "{}", "{}"))
ledger.confirm(shared, ref)
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    key = f"{number}-{count}"
    for _ in range(2):  # a writer that is not sure of its success tries again
        ledger.append(own if count % 2 else shared, "note", {"key": key}, key=key)
    print(key, flush=True)
    # What every tracker of a shared job would see at this moment: one event however many trackers.
    step = int(time.time() * 2)
    ledger.record([(shared, Reading(ref, JobState.RUNNING, "running", progress=Progress("train", step=step)))])
    count += 1
ledger.close()
"""


@pytest.mark.parametrize(
    ("writers", "seconds", "killed"),
    [pytest.param(8, 3.0, 2, id="8x3s"), pytest.param(50, 30.0, 5, id="50x30s", marks=pytest.mark.full)],
)
def test_every_event_is_there_once(tmp_path, writers, seconds, killed):
    home, random_ = tmp_path / "home", random.Random(7)
    outputs = [(tmp_path / f"acknowledged-{number}").open("w+") for number in range(writers)]
    programs = []
    for number, output in enumerate(outputs):
        arguments = [str(home), str(number), str(seconds)]
        programs.append(subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE, stdout=output, text=True))
    while any(os.fstat(output.fileno()).st_size == 0 for output in outputs):
        time.sleep(0.05)
    for program in programs:  # all at once, on a home that does not exist yet
        program.stdin.write("\n")
        program.stdin.close()
    for program in programs[:killed]:
        time.sleep(random_.uniform(0, seconds / killed / 2))
        program.send_signal(signal.SIGKILL)
    codes = [program.wait(timeout=seconds + 120) for program in programs]
    assert codes == [-signal.SIGKILL] * killed + [0] * (writers - killed)
    acknowledged = []
    for output in outputs:
        output.seek(0)
        acknowledged += output.read().split()
        output.close()
    acknowledged = [key for key in acknowledged if key != "ready"]
    check(home, acknowledged, killed, writers)


def check(home, acknowledged, killed, writers):
    ledger = Ledger(home, SystemClock())
    events = ledger.events()
    written = [event.body["key"] for event in events if event.kind == "note"]
    print(f"{len(acknowledged)} events acknowledged by {writers} writers, {len(events)} events in the ledger")
    assert len(written) == len(set(written)), "an event is there twice"
    assert set(acknowledged) <= set(written), "an acknowledged event is lost"
    assert len(written) - len(acknowledged) <= killed, "more than the killed writers' last events are unacknowledged"
    shared = [event for event in events if event.launch_id == "shared-aaa"]
    assert [event.kind for event in shared if event.kind in ("intended", "confirmed")] == ["intended", "confirmed"]
    steps = [event.body["progress"]["step"] for event in shared if event.kind == "reading"]
    assert all(before != after for before, after in itertools.pairwise(steps)), "one change was written twice"
    views = ledger.views()
    ledger.rebuild()
    assert ledger.views() == views
    assert {view.id for view in views} <= {LaunchId("shared-aaa"), *(LaunchId(f"own-{number:03d}") for number in range(writers))}
    ledger.close()
    with sqlite3.connect(home / "ledger.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()
