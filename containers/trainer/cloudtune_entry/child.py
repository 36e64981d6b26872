"""The trainer as a child: started, watched, signalled, and every orphan reaped, as the first process of a container must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cloudtune_entry.credentials import redacted

TICK_SECONDS = 0.1
PASSED_ON = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class End:
    """How the child ended: ``code`` as subprocess counts (negative: by that signal); ``asked`` when a signal was passed on."""

    code: int
    asked: bool


class Signals:
    """Remembers that somebody asked us to stop; installed before anything slow, so that no request is lost."""

    def __init__(self) -> None:
        self.asked = False
        self.kill_at: float | None = None
        for number in PASSED_ON:
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def run(
    command: list[str],
    environ: Mapping[str, str],
    signals: Signals,
    *,
    user: int | None,
    secrets: Mapping[str, str],
    every_tick: Callable[[], None] = lambda: None,
) -> End:
    """Run ``command`` to its end, passing a stop request on once. With ``secrets`` its output goes through us, redacted."""
    child: subprocess.Popen[bytes] = subprocess.Popen(
        command,
        env=dict(environ),
        stdout=subprocess.PIPE if secrets else None,
        stderr=subprocess.STDOUT if secrets else None,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    relay = threading.Thread(target=_relay, args=(child, secrets), daemon=True) if secrets else None
    if relay:
        relay.start()
    code = _watch(child, signals, under_torchrun="torch.distributed.run" in command, every_tick=every_tick)
    if relay:
        relay.join(timeout=10)
    return End(code, signals.asked)


def _relay(child: subprocess.Popen[bytes], secrets: Mapping[str, str]) -> None:
    """Lines are whole before they are redacted: a secret cut in two would pass."""
    for line in child.stdout or ():
        sys.stdout.buffer.write(redacted(line, secrets))
        sys.stdout.buffer.flush()


def _watch(child: subprocess.Popen[bytes], signals: Signals, *, under_torchrun: bool, every_tick: Callable[[], None]) -> int:
    passed = False
    while True:
        if signals.asked and not passed:
            passed = _pass_on(child.pid, under_torchrun)
        code = _reap(child.pid)
        if code is not None:
            child.returncode = code
            return code
        if signals.kill_at is not None and time.monotonic() > signals.kill_at:
            os.killpg(child.pid, signal.SIGKILL)
        every_tick()
        time.sleep(TICK_SECONDS)


def _pass_on(pid: int, under_torchrun: bool) -> bool:
    """SIGTERM to the trainer. Under torchrun to its workers alone: torchrun itself would kill them after 30 s,
    in the middle of a large checkpoint. False when no worker is there yet, so that it is tried again."""
    targets = children_of(pid) if under_torchrun else [pid]
    for target in targets:
        try:
            os.kill(target, signal.SIGTERM)
        except ProcessLookupError:
            continue
    return bool(targets)


def children_of(pid: int) -> list[int]:
    """The direct children of a process, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found


def _reap(pid: int) -> int | None:
    """Collect every ended process; the exit code of ``pid`` when it is among them."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1  # somebody else waited for it; cannot happen while we are the only waiter
        if ended == 0:
            return None
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
