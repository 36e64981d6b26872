"""What a local job's files mean: metrics to progress, sights to verdicts, marks to processes, requests and environments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cloudtune.clock import SystemClock
from cloudtune.errors import RejectedError
from cloudtune.filelock import FileLock, held, is_held
from cloudtune.job import JobState, LaunchId
from cloudtune.providers.base import Staged
from cloudtune.providers.local.environment import trainer_environment
from cloudtune.providers.local.folder import Sight, read_end
from cloudtune.providers.local.processes import is_running, signal_group, signal_process
from cloudtune.providers.local.request import build_request
from cloudtune.providers.local.supervisor import may_start, process_mark
from cloudtune.providers.local.tables import LocalState, job_state, judge
from cloudtune.providers.progress import SPARK_POINTS, progress_of
from tests import builders


def rows(*each):
    return b"".join(json.dumps({"at": 1.0, **row}).encode() + b"\n" for row in each)


def test_progress_is_the_newest_row_with_what_lasts():
    tail = rows(
        {"phase": "train", "step": 1, "total_steps": 9, "loss": 2.0, "tokens_per_second": 10.0, "eta_seconds": 8.0},
        {"phase": "eval", "step": 1, "eval_loss": 1.5, "at": 7.5},
    )
    progress, at = progress_of(tail)
    assert (progress.phase, progress.step, progress.total_steps, progress.loss, progress.eval_loss) == ("eval", 1, 9, 2.0, 1.5)
    assert (progress.tokens_per_second, progress.eta_seconds, progress.losses, at) == (10.0, None, (2.0,), 7.5)


def test_the_steps_of_the_preparation_are_not_those_of_the_training():
    progress, _ = progress_of(rows({"phase": "prepare", "step": 300, "loss": 9.0}, {"phase": "load"}))
    assert (progress.phase, progress.step, progress.loss, progress.losses) == ("load", None, None, ())
    progress, _ = progress_of(rows({"phase": "prepare", "step": 300, "loss": 9.0}, {"phase": "train", "loss": 2.0}))
    assert (progress.step, progress.losses) == (None, (2.0,))


@pytest.mark.parametrize("tail", [b"", b"{", b'{"phase": "train"}', b"\xff\n", b"[]\n", b'{"at": 1}\n', b'{"phase": 3}\n', b"\n\n"])
def test_nothing_readable_is_no_progress(tail):
    assert progress_of(tail) is None


def test_torn_and_foreign_lines_are_passed_over():
    whole = rows({"phase": "train", "step": "x", "loss": True, "epoch": [1]}, {"phase": "train", "step": 8})
    progress, _ = progress_of(b'"step": 7}\nnoise\n' + whole + b'{"phase": "tr')
    assert (progress.step, progress.loss, progress.epoch) == (8, None, None)


def test_a_long_run_keeps_the_newest_losses():
    progress, _ = progress_of(rows(*({"phase": "train", "step": n, "loss": float(n)} for n in range(100))))
    assert progress.losses == tuple(float(n) for n in range(100 - SPARK_POINTS, 100))


STARTED = {"attempt": 1, "at": 1.0}
SIGHT = Sight(known=True, alive=True, started=STARTED, exit=None, stop_asked=False, fenced=False, can_go_on=False)


def ended(code=0, reason="exited", number=None):
    return {"attempt": 1, "code": code, "reason": reason, "signal": number, "seconds": 1.0, "seconds_before": 0.0, "at": 2.0}


VERDICTS = {
    "unknown": (replace(SIGHT, known=False, alive=False, started=None), None, LocalState.ABSENT),
    "fenced": (replace(SIGHT, alive=False, started=None, fenced=True), None, LocalState.ABSENT),
    "never-started": (replace(SIGHT, alive=False, started=None), None, LocalState.ABSENT),
    "accepted": (replace(SIGHT, started=None), None, LocalState.ACCEPTED),
    "running": (SIGHT, None, LocalState.TRAINING),
    "stopping": (replace(SIGHT, stop_asked=True), None, LocalState.STOPPING),
    "complete": (replace(SIGHT, exit=ended()), "complete", LocalState.COMPLETE),
    "complete-although-stopped": (replace(SIGHT, exit=ended(reason="stopped"), stop_asked=True), "complete", LocalState.COMPLETE),
    "no-manifest": (replace(SIGHT, exit=ended()), None, LocalState.BROKEN),
    "own-limit": (replace(SIGHT, exit=ended()), "stopped", LocalState.OUT_OF_TIME),
    "time-limit": (replace(SIGHT, exit=ended(75, "time_limit")), "interrupted", LocalState.OUT_OF_TIME),
    "stopped": (replace(SIGHT, exit=ended(75, "stopped"), stop_asked=True), "interrupted", LocalState.STOPPED),
    "stopped-by-force": (replace(SIGHT, exit=ended(137, "stopped", 9), stop_asked=True), None, LocalState.STOPPED),
    "interrupted": (replace(SIGHT, exit=ended(75)), "interrupted", LocalState.CUT_OFF),
    "given-up-at-rest": (replace(SIGHT, exit=ended(75), stop_asked=True), "interrupted", LocalState.STOPPED),
    "failed": (replace(SIGHT, exit=ended(1)), None, LocalState.BROKEN),
    "failed-then-stopped": (replace(SIGHT, exit=ended(1), stop_asked=True), None, LocalState.BROKEN),
    "killed": (replace(SIGHT, exit=ended(137, number=9)), None, LocalState.KILLED),
    "not-started": (replace(SIGHT, exit={**ended(None, "spawn_failed"), "message": "no such file"}), None, LocalState.BROKEN),
    "vanished": (replace(SIGHT, alive=False), None, LocalState.VANISHED),
    "vanished-with-checkpoint": (replace(SIGHT, alive=False, can_go_on=True), None, LocalState.CUT_OFF),
    "vanished-after-the-end": (replace(SIGHT, alive=False), "complete", LocalState.COMPLETE),
    "vanished-after-saving": (replace(SIGHT, alive=False), "interrupted", LocalState.CUT_OFF),
    "vanished-while-stopping": (replace(SIGHT, alive=False, stop_asked=True), "interrupted", LocalState.STOPPED),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_what_is_seen_has_one_meaning(name):
    sight, outcome, expected = VERDICTS[name]
    verdict = judge(sight, outcome, has_metrics=True)
    assert verdict.native is expected
    if job_state(verdict.native) in (JobState.FAILED, JobState.LOST):
        assert verdict.message, "a failure has a sentence"


def test_before_the_first_metrics_a_job_is_starting():
    assert judge(SIGHT, None, has_metrics=False).native is LocalState.STARTED


def test_every_state_is_reached_by_some_sight():
    reached = {judge(sight, outcome, has_metrics=True).native for sight, outcome, _ in VERDICTS.values()}
    assert reached | {LocalState.STARTED} == set(LocalState)


STARTS = {
    "new": ({}, None, False, 1),
    "given-up": ({"fenced.json": {}}, None, False, None),
    "started": ({"started.json": {"attempt": 1}}, None, False, None),
    "ended-well": ({"started.json": {"attempt": 1}, "exit.json": ended()}, "complete", True, None),
    "failed": ({"started.json": {"attempt": 1}, "exit.json": ended(1)}, None, True, None),
    "killed": ({"started.json": {"attempt": 1}, "exit.json": ended(137)}, None, True, None),
    "out-of-time": ({"started.json": {"attempt": 1}, "exit.json": ended(75, "time_limit")}, "interrupted", True, None),
    "stopped": ({"started.json": {"attempt": 1}, "exit.json": ended(75, "stopped"), "stop.json": {}}, "interrupted", True, None),
    "given-up-at-rest": ({"started.json": {"attempt": 1}, "exit.json": ended(75), "stop.json": {}}, "interrupted", True, None),
    "interrupted": ({"started.json": {"attempt": 1}, "exit.json": ended(75)}, "interrupted", True, 2),
    "machine-went-down": ({"started.json": {"attempt": 3}, "exit.json": ended(75)}, None, True, 4),
    "went-down-before-a-checkpoint": ({"started.json": {"attempt": 1}}, None, False, None),
    "went-down-after-saving": ({"started.json": {"attempt": 1}}, "interrupted", False, 2),
    "went-down-after-the-end": ({"started.json": {"attempt": 1}}, "complete", True, None),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_trainer_is_started_once_and_again_only_to_go_on(tmp_path, name):
    files, outcome, checkpoint, expected = STARTS[name]
    for file, body in files.items():
        (tmp_path / file).write_text(json.dumps(body))
    for folder in ("ml/model", "ml/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    if outcome:
        (tmp_path / "ml/model/manifest.json").write_text(json.dumps({"outcome": outcome}))
    if checkpoint:
        (tmp_path / "ml/checkpoints/step-10").mkdir()
    assert may_start(tmp_path) == expected


def test_the_request_is_pure_and_names_secrets_only(tmp_path):
    plan = builders.plan(tmp_path, secrets={"HF_TOKEN": "env"}, max_seconds=60)
    staged = Staged("d" * 64, {"job/job.json": "file:///x"})
    first, second = (build_request(plan, staged, LaunchId("a-b")) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(dict(first.body))) == first.body
    assert (first.body["secrets"], first.body["max_seconds"]) == ({"HF_TOKEN": "env"}, 60)


def test_the_environment_is_an_allow_list(tmp_path):
    ours = {"PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "1"}
    here = {**ours, "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y", "PYTHONPATH": "/evil", "LD_PRELOAD": "z"}
    made = trainer_environment(LaunchId("a-b"), tmp_path, tmp_path / "cache", {}, here)
    assert made["PATH"] == "/bin"
    assert made["CUDA_VISIBLE_DEVICES"] == "1"
    assert {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "LD_PRELOAD"}.isdisjoint(made)
    assert "/evil" not in made["PYTHONPATH"]
    assert (made["CLOUDTUNE_LAUNCH_ID"], made["CLOUDTUNE_ROOT"]) == ("a-b", str(tmp_path))
    assert trainer_environment(LaunchId("a-b"), tmp_path, tmp_path, {"HF_TOKEN": "env"}, here)["HF_TOKEN"] == "y"
    with pytest.raises(RejectedError, match="aws"):
        trainer_environment(LaunchId("a-b"), tmp_path, tmp_path, {"HF_TOKEN": "aws:secretsmanager:x"}, here)


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)


def test_only_the_marked_process_is_signalled():
    program = sleeper()
    try:
        mark = process_mark(program.pid)
        assert is_running(mark)
        for wrong in ({"ticks": mark["ticks"] + 1}, {"boot": "another"}, {"pid": 2**22 - 1}, {"ticks": None}):
            assert not is_running({**mark, **wrong})
            assert not signal_process({**mark, **wrong})
            assert not signal_group({**mark, **wrong})
        assert program.poll() is None
        assert signal_process(mark)
        assert program.wait(timeout=10) == -signal.SIGTERM
        assert not is_running(mark)
    finally:
        program.kill()
        program.wait()


LEADER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("up", flush=True)
time.sleep(60)
"""


def test_a_group_is_ended_with_its_leader():
    program = subprocess.Popen([sys.executable, "-c", LEADER], process_group=0, stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "up\n"
    assert signal_group(process_mark(program.pid))
    assert program.wait(timeout=10) == -signal.SIGKILL
    assert program.stdout.read() == "", "its child is gone too, or the pipe would stay open"
    program.stdout.close()


def test_a_dead_process_that_is_not_buried_does_not_run():
    program = sleeper()
    mark = process_mark(program.pid)
    program.kill()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(mark)
    program.wait()


def test_a_lock_lives_with_its_holders(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    lock = FileLock.try_acquire(path)
    assert is_held(path)
    assert FileLock.try_acquire(path) is None
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock.fd])
    lock.release()
    assert is_held(path), "the child inherited it"
    child.kill()
    child.wait()
    assert not is_held(path)


def test_a_removed_lock_file_is_not_mistaken_for_the_lock(tmp_path):
    path = tmp_path / "lock"
    first = FileLock.try_acquire(path)
    path.unlink()
    second = FileLock.try_acquire(path)
    assert second is not None
    first.release()
    assert is_held(path)
    second.remove()
    assert not path.exists()
    with held(path, SystemClock()) as lock:
        assert lock is not None
        with held(path, SystemClock(), 0.05) as other:
            assert other is None
    assert not path.exists()


def test_only_plain_files_are_read(tmp_path):
    (tmp_path / "file").write_text("0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert read_end(tmp_path / "file", 4) == b"6789"
    assert [read_end(tmp_path / name, 4) for name in ("link", "pipe", "absent", "")] == [b""] * 4
    assert read_end(Path("/dev/zero"), 4) == b""
