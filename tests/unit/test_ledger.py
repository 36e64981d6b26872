"""The ledger: intentions, events once, views as folds, and one clear sentence for each kind of trouble. Real SQLite files."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtune.clock import SystemClock, VirtualClock
from cloudtune.errors import LedgerError, UsageError
from cloudtune.job import JobRef, JobState, LaunchId, Progress, Reading, fold, start
from cloudtune.ledger.database import Database
from cloudtune.ledger.ledger import Launch, Ledger

ID = LaunchId("bot-abc")
REF = JobRef("local", "this-machine", "bot-abc")


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path, VirtualClock())
    yield ledger
    ledger.close()


def launch(launch_id=ID, plan="{}", **more):
    return Launch(launch_id, "local", "bot", plan, "{}", **more)


def reading(state=JobState.RUNNING, step=None, losses=(), **more):
    progress = Progress("train", step=step, losses=losses) if step is not None else None
    return Reading(REF, state, state.value, progress=progress, **more)


def test_intention_confirmation_reading(ledger):
    assert ledger.intend(launch(), output_dir="/runs").state is JobState.SUBMITTING
    assert ledger.confirm(ID, REF).state is JobState.QUEUED
    assert ledger.record([(ID, reading(step=1))])[0].state is JobState.RUNNING
    view = ledger.view(ID)
    assert (view.ref, view.output_dir, view.progress.step) == (REF, "/runs", 1)
    assert [event.kind for event in ledger.events(ID)] == ["intended", "confirmed", "reading"]


def test_the_same_intention_twice_is_one_and_another_plan_is_refused(ledger):
    ledger.intend(launch())
    ledger.confirm(ID, REF)
    assert ledger.intend(launch()).state is JobState.QUEUED
    assert len(ledger.events()) == 2
    with pytest.raises(UsageError, match="already names another job"):
        ledger.intend(launch(plan='{"other": 1}'))


def test_what_was_said_last_is_not_written_again(ledger):
    ledger.intend(launch())
    ledger.confirm(ID, REF)
    for step in (1, 1, 2, 2, 1):
        ledger.record([(ID, reading(step=step, losses=(1.0,) * step))])
    assert [event.body["progress"]["step"] for event in ledger.events(ID) if event.kind == "reading"] == [1, 2, 1]


def test_after_the_end_readings_are_not_written(ledger):
    ledger.intend(launch())
    ledger.record([(ID, reading(JobState.FAILED, message="m"))])
    assert ledger.record([(ID, reading(step=9))])[0].state is JobState.FAILED
    assert len(ledger.events()) == 2


def test_loss_curves_are_not_written_at_every_step(ledger):
    ledger.intend(launch())
    ledger.record([(ID, reading(step=1, losses=(1.5,) * 48))])
    assert ledger.events(ID)[-1].body["progress"]["losses"] == []


def test_numbers_that_are_none_survive(ledger):
    ledger.intend(launch())
    ledger.record([(ID, Reading(REF, JobState.RUNNING, "r", progress=Progress("train", step=1, loss=float("nan"))))])
    assert str(ledger.view(ID).progress.loss) == "nan"


def test_an_event_with_a_key_is_written_once(ledger):
    ledger.intend(launch())
    for _ in range(3):
        ledger.append(ID, "note", {"n": 1}, key="note-1")
    ledger.append(ID, "note", {"n": 1})
    ledger.append(ID, "note", {"n": 1})
    assert len([event for event in ledger.events() if event.kind == "note"]) == 3


def test_the_last_bill_counts(ledger):
    ledger.intend(launch())
    for seconds in (60.0, 90.0):
        ledger.append(ID, "cost", {"billable_seconds": seconds})
    assert ledger.bills() == {ID: {"billable_seconds": 90.0}}


def test_every_write_waits_for_the_disk(tmp_path):
    """An intention has to outlive a power cut that comes after its submit: NORMAL would keep the file whole and lose the event."""
    database = Database(tmp_path / "ledger.db", VirtualClock())
    assert database.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (2,)
    database.close()


def test_an_event_for_nobody_is_refused(ledger):
    with pytest.raises(LedgerError, match="there is no job"):
        ledger.append(LaunchId("nobody-abc"), "note", {})
    with pytest.raises(LedgerError, match="there is no job"):
        ledger.record([(LaunchId("nobody-abc"), reading())])


def test_views_by_prefix_recipe_openness_and_age(ledger):
    for number in range(5):
        ledger.intend(Launch(LaunchId(f"j{number}-abc"), "local", "even" if number % 2 == 0 else "odd", "", ""))
    ledger.record([(LaunchId("j1-abc"), reading(JobState.SUCCEEDED))])
    assert [view.id for view in ledger.views(limit=2)] == ["j3-abc", "j4-abc"]
    assert [view.id for view in ledger.views(recipe="odd")] == ["j1-abc", "j3-abc"]
    assert [view.id for view in ledger.views(prefix="j2")] == ["j2-abc"]
    assert [view.id for view in ledger.views(prefix="%")] == []
    assert [view.id for view in ledger.views(is_open=True)] == ["j0-abc", "j2-abc", "j3-abc", "j4-abc"]
    assert [view.id for view in ledger.views(is_open=False)] == ["j1-abc"]


def test_nothing_written_can_be_changed(ledger):
    ledger.intend(launch())
    with sqlite3.connect(ledger.path) as raw:
        for table in ("events", "launches"):
            for sql in ("DELETE FROM ", "UPDATE "):
                statement = f"{sql}{table}" + (" SET rowid = 99" if sql == "UPDATE " else "")
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    raw.execute(statement)
    raw.close()


def test_order_is_the_order_of_writing_when_clocks_jump(tmp_path):
    clock = VirtualClock(datetime(2026, 6, 1, tzinfo=UTC))
    ledger = Ledger(tmp_path, clock)
    ledger.intend(launch())
    clock.jump(-365 * 86400)
    ledger.confirm(ID, REF)
    clock.jump(10 * 365 * 86400)
    ledger.record([(ID, reading(step=1))])
    clock.jump(-20 * 365 * 86400)
    ledger.record([(ID, reading(JobState.SUCCEEDED))])
    events = ledger.events(ID)
    assert [event.kind for event in events] == ["intended", "confirmed", "reading", "reading"]
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert [event.at for event in events] != sorted(event.at for event in events)
    assert ledger.view(ID).state is JobState.SUCCEEDED
    assert ledger.views()[-1].created.year == 2026
    ledger.close()


steps = st.sampled_from(["confirm", "run", "run2", "done", "fail", "lost", "interrupted", "resume", "stop", "abandon", "collect", "note"])
READINGS = {
    "run": reading(step=1),
    "run2": reading(step=2),
    "done": reading(JobState.SUCCEEDED),
    "fail": reading(JobState.FAILED),
    "lost": reading(JobState.LOST),
    "interrupted": reading(JobState.INTERRUPTED, exit_code=75),
}
KINDS = {"resume": "resumed", "stop": "stop_requested", "abandon": "abandoned", "collect": "collected", "note": "note"}


@settings(max_examples=40, deadline=None)
@given(script=st.lists(st.tuples(st.sampled_from(["a-x", "b-x"]), steps), max_size=25))
def test_the_cached_views_are_the_fold_of_the_events(tmp_path_factory, script):
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder, VirtualClock())
    for name in ("a-x", "b-x"):
        ledger.intend(Launch(LaunchId(name), "local", "bot", "", ""))
    for name, step in script:
        if step == "confirm":
            ledger.confirm(LaunchId(name), REF)
        elif step in READINGS:
            ledger.record([(LaunchId(name), READINGS[step])])
        else:
            ledger.append(LaunchId(name), KINDS[step], {})
    cached = ledger.views()
    folded = [fold(start(LaunchId(name), "local", "bot"), ledger.events(LaunchId(name))) for name in ("a-x", "b-x")]
    assert cached == folded
    open_before = ledger.views(is_open=True)
    ledger.rebuild()
    assert (ledger.views(), ledger.views(is_open=True)) == (cached, open_before)
    assert open_before == [view for view in cached if not view.ended]
    ledger.close()
    shutil.rmtree(folder)


def test_opening_again_keeps_everything(tmp_path):
    for number in range(3):
        ledger = Ledger(tmp_path, SystemClock())
        ledger.intend(launch(LaunchId(f"j{number}-abc")))
        ledger.close()
    ledger = Ledger(tmp_path, SystemClock())
    assert len(ledger.views()) == 3
    ledger.close()


def open_and_use(home, **more):
    ledger = Ledger(home, SystemClock(), **more)
    try:
        ledger.intend(launch())
    finally:
        ledger.close()


def problem(home, **more):
    """The error of opening (and using) the ledger in ``home``; its hint is shown to the user, so it must be there."""
    with pytest.raises(LedgerError) as caught:
        open_and_use(home, **more)
    assert caught.value.hint
    assert caught.value.where
    assert "\n" not in caught.value.what
    return caught.value


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    ledger = Ledger(tmp_path, SystemClock())
    ledger.close()
    with sqlite3.connect(ledger.path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = ledger.path.read_bytes()
    error = problem(tmp_path)
    assert error.code == "ledger-newer"
    assert "99" in error.what
    assert "upgrade" in error.hint
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("damage", ["nonsense", "torn", "zeroed"])
def test_a_damaged_file_is_never_overwritten(tmp_path, damage):
    ledger = Ledger(tmp_path, SystemClock())
    for number in range(50):
        ledger.intend(launch(LaunchId(f"j{number}-abc"), plan="x" * 3000))
    ledger.close()
    whole = ledger.path.read_bytes()
    broken = {
        "nonsense": b"not a database at all" * 500,
        "torn": whole[: len(whole) // 2],
        "zeroed": whole[:4096] + bytes(len(whole) - 4096),
    }
    ledger.path.write_bytes(broken[damage])
    error = problem(tmp_path)
    assert error.code == "ledger-damaged"
    assert ".damaged" in error.hint
    assert "reconcile" in error.hint
    assert ledger.path.read_bytes() == broken[damage]


def test_the_advice_for_a_damaged_file_works(tmp_path):
    (tmp_path / "ledger.db").write_text("nonsense " * 1000)
    (tmp_path / "ledger.db-wal").write_text("left behind")
    advice = problem(tmp_path).hint.partition("with: ")[2].partition("\n")[0]
    subprocess.run(["bash", "-c", advice], check=True)
    ledger = Ledger(tmp_path, SystemClock())
    assert ledger.views() == []
    ledger.close()
    assert (tmp_path / "ledger.db.damaged").read_text().startswith("nonsense")


def test_a_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.db") as raw:
        raw.execute("CREATE TABLE theirs (x)")
        raw.execute("PRAGMA user_version = 1")
    raw.close()
    assert problem(tmp_path).code == "ledger-foreign"


def test_a_home_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be made" in problem(tmp_path / "file" / "home").what


def as_nobody(work):
    """Run ``work`` in a child process without root's rights; what it raised, as (code, what, hint)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            work()
            os.write(writer, b"no error")
        except LedgerError as error:
            os.write(writer, f"{error.code}\n{error.what}\n{error.hint}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return answer.read().split("\n", 2)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights to meet a folder it may not write")


@needs_root
@pytest.mark.parametrize("exists", [False, True], ids=["empty", "with-a-ledger"])
def test_a_home_that_may_not_be_written(exists):
    home = Path(f"/tmp/cloudtune-test-{os.getpid()}-{exists}")
    home.mkdir(mode=0o755)
    try:
        if exists:
            Ledger(home, SystemClock()).close()
        code, what, hint = as_nobody(lambda: open_and_use(home))
    finally:
        shutil.rmtree(home)
    assert code == "ledger-read-only"
    assert "cannot be opened for writing" in what
    assert "CLOUDTUNE_HOME" in hint


def write_notes(ledger):
    for number in range(1000):
        ledger.append(ID, "note", {"n": number, "text": "x" * 1000}, key=f"n{number}")


def in_child(work):
    """Run ``work`` in a forked child; its exit status says whether it raised nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def test_a_disk_that_takes_no_more(tmp_path):
    """A limit on file size stands for the full disk (and every other refusal): nothing is half written."""
    ledger = Ledger(tmp_path, SystemClock())
    ledger.intend(launch())
    ledger.close()

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        inner = Ledger(tmp_path, SystemClock())
        with pytest.raises(LedgerError) as caught:
            write_notes(inner)
        assert caught.value.code in ("ledger-io", "ledger-disk-full")

    assert in_child(fill)
    ledger = Ledger(tmp_path, SystemClock())
    notes = [event.body["n"] for event in ledger.events(ID) if event.kind == "note"]
    assert notes == list(range(len(notes)))
    assert len(notes) > 3
    ledger.append(ID, "note", {"n": -1})
    ledger.close()


@needs_root
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        ledger = Ledger(disk, SystemClock())
        ledger.intend(launch())
        with pytest.raises(LedgerError) as caught:
            write_notes(ledger)
        assert caught.value.code == "ledger-disk-full"
        assert "free some space" in caught.value.hint
        before = len(ledger.events())
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        ledger.append(ID, "note", {"n": "after"})
        assert len(ledger.events()) == before + 1
        assert ledger.views()[0].id == ID
        ledger.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_ledger_that_someone_keeps_locked(tmp_path):
    Ledger(tmp_path, SystemClock()).close()
    raw = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    try:
        error = problem(tmp_path, busy_seconds=0.1)
    finally:
        raw.close()
    assert error.code == "ledger-locked"


def test_a_lock_that_is_released_in_time_is_waited_for(tmp_path):
    Ledger(tmp_path, SystemClock()).close()
    program = (
        "import sqlite3, sys, time\nraw = sqlite3.connect(sys.argv[1], isolation_level=None)\nraw.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\ntime.sleep(3)\nraw.execute('COMMIT')"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "ledger.db")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    began = time.monotonic()
    open_and_use(tmp_path)
    assert time.monotonic() - began > 2
    holder.communicate()
