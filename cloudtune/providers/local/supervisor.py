"""The supervisor of one local job: a small program that starts the trainer, watches it and writes down how it ended.

Run as a script, ``python -I -S supervisor.py JOB_FOLDER LOCK_FD``, with the trainer's environment as its own. It
uses the standard library alone and imports nothing of cloudtune, so it starts in milliseconds and an upgrade of
cloudtune under a running job cannot break it. It decides nothing about the job's meaning.

Who holds the lock on the job folder's ``lock`` file is alive. The launcher takes it, hands the open descriptor to
this program and the program hands it to the trainer, so there is no instant in which a second launcher could get
in, and nothing to clean up after a crash. ``started.json`` is on the disk before the trainer is started: whoever
finds it knows that starting again could make two.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOCK = "lock"
REQUEST = "request.json"
STARTED = "started.json"
STOP = "stop.json"
EXIT = "exit.json"
FENCED = "fenced.json"
LOG = "log.txt"
OWN_LOG = "supervisor.log"
ROOT = "ml"
FAILURE = "output/failure"
MANIFEST = "model/manifest.json"
METRICS = "output/data/metrics.jsonl"
INTERRUPTED_CODE = 75

_TICK_SECONDS = 0.2
_HIDDEN = b"***"
_SHORTEST_SECRET = 4  # hiding shorter values would blot out ordinary words
_PR_SET_PDEATHSIG = 1


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Write ``body`` so that a reader sees the whole file or none, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content, or None when it is missing or not an object."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def process_mark(pid: int) -> dict[str, Any]:
    """What tells this process from any other that ever gets its id: start time in ticks and the machine's boot id."""
    return {"pid": pid, "ticks": start_ticks(pid), "boot": boot_id()}


def start_ticks(pid: int) -> int | None:
    """When ``pid`` was started, in clock ticks since boot; None when it does not run (any more) or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])  # dead and only waiting to be buried


def boot_id() -> str:
    """The kernel's name for this run of the machine; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def may_start(folder: Path) -> int | None:
    """The number of the attempt that may start now, or None. Call with the lock held: then nothing of the job is alive.

    The first attempt may start once; another only after one that was cut off and left a checkpoint to go on from.
    """
    if (folder / FENCED).exists():
        return None
    started = read_json(folder / STARTED)
    if started is None:
        return 1
    attempt = int(started["attempt"])
    return attempt + 1 if not (folder / STOP).exists() and cut_off(folder, attempt) else None


def cut_off(folder: Path, attempt: int) -> bool:
    """Whether ``attempt``, of which nothing is alive, ended without its own will and can be gone on with."""
    ended = read_json(folder / EXIT)
    if ended is not None and ended["attempt"] == attempt:
        return ended["code"] == INTERRUPTED_CODE and ended["reason"] in ("exited", "terminated")
    manifest = read_json(folder / ROOT / MANIFEST)
    if manifest is not None:
        return manifest.get("outcome") == "interrupted"
    checkpoints = folder / ROOT / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


class Redactor:
    """Replaces secret values in a stream of bytes, also when a value is cut between two chunks."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted({s.encode() for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be written now; an end that could be the beginning of a secret is held back."""
        text = self._held + chunk
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        held = max((_overlap(text, secret) for secret in self._secrets), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _overlap(text: bytes, secret: bytes) -> int:
    """Length of the longest proper beginning of ``secret`` that ``text`` ends with."""
    return next((size for size in range(min(len(secret) - 1, len(text)), 0, -1) if text.endswith(secret[:size])), 0)


class Watch:
    """One attempt: the trainer's process and why and when it is to end."""

    def __init__(self, folder: Path, request: dict[str, Any], lock_fd: int, wakeup: int) -> None:
        self.folder = folder
        self.request = request
        self.wakeup = wakeup
        self.began = time.monotonic()
        self.redactor = Redactor([os.environ[name] for name in request.get("secrets", {}) if name in os.environ])
        self.log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.reason = "exited"
        self.term_at: float | None = None
        self.terminated = False
        self.pipe: int | None = None
        self.child = self._start(lock_fd)

    def _start(self, lock_fd: int) -> subprocess.Popen[bytes]:
        """The trainer, in its own process group, writing to the log: directly, or through us when secrets must be hidden."""
        kept, output = [lock_fd], self.log
        if self.request.get("secrets"):
            # The trainer keeps the reading end too: should we be killed, its prints must not fail while it saves.
            self.pipe, output = os.pipe()
            os.set_blocking(self.pipe, False)
            kept.append(self.pipe)
        us = os.getpid()
        command = [sys.executable if word == "python" else word for word in self.request["command"][:1]] + self.request["command"][1:]
        child = subprocess.Popen(
            command,
            cwd=self.folder / ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=kept,
            process_group=0,
            preexec_fn=lambda: _prepare_trainer(us),  # noqa: PLW1509 - this program has one thread
        )
        if output != self.log:
            os.close(output)
        return child

    def run(self) -> dict[str, Any]:
        """Watch until the trainer has ended; returns the record for exit.json."""
        while not self._ended():
            self._pump(_TICK_SECONDS)
            self._press()
        _signal_group(self.child.pid, signal.SIGKILL)  # before it is reaped, so the group's number is still ours
        status = self.child.wait()
        self._pump(0.0)
        self._write(self.redactor.rest())
        return {
            "code": 128 - status if status < 0 else status,
            "signal": -status if status < 0 else None,
            "reason": self.reason,
            "seconds": round(time.monotonic() - self.began, 3),
        }

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _pump(self, seconds: float) -> None:
        """Wait for output or a signal, and bring output to the log."""
        sources = [self.wakeup] if self.pipe is None else [self.wakeup, self.pipe]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self.wakeup in ready:
            self.terminated |= bool({signal.SIGTERM, signal.SIGINT}.intersection(os.read(self.wakeup, 4096)))
        while self.pipe is not None and (chunk := _read_now(self.pipe)):
            self._write(self.redactor.feed(chunk))

    def _write(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the supervision
            os.write(self.log, text)

    def _press(self) -> None:
        """SIGTERM to the trainer when it is to end, SIGKILL to its whole group when the grace is over."""
        stop = read_json(self.folder / STOP)
        grace = float((stop or self.request).get("grace_seconds", 60))
        if self.term_at is None:
            limit = self.request.get("max_seconds")
            if stop is not None:
                self.reason = "stopped"
            elif self.terminated:
                self.reason = "terminated"
            elif limit and time.monotonic() - self.began >= limit:
                self.reason = "time_limit"
            else:
                return
            self.term_at = time.monotonic()
            # To the trainer alone: its data workers must live while it saves. It is not reaped yet, so the number is its own.
            os.kill(self.child.pid, signal.SIGTERM)
        if time.monotonic() - self.term_at >= grace:
            _signal_group(self.child.pid, signal.SIGKILL)


def _prepare_trainer(supervisor: int) -> None:
    """In the new process before the trainer: it must not outlive us unknown, nor inherit our ignored signals."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(INTERRUPTED_CODE)
        # When memory runs out, the kernel should take the trainer and not the user's other programs.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _read_now(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""


def _hide_in_failure(folder: Path, redactor: Redactor) -> None:
    """The failure file is shown to people and kept in the ledger: it must not carry a secret either."""
    path = folder / ROOT / FAILURE
    try:
        text = path.read_bytes()
    except OSError:
        return
    clean = redactor.feed(text) + redactor.rest()
    if clean != text:
        path.write_bytes(clean)


def _wakeup_pipe() -> int:
    """A descriptor that becomes readable when a signal arrives; its bytes are the signals' numbers."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def supervise(folder: Path, lock_fd: int) -> None:
    """Start the trainer if it may start, and see it through to exit.json."""
    attempt = may_start(folder)
    request = read_json(folder / REQUEST)
    if attempt is None or request is None:
        return
    earlier = read_json(folder / EXIT) or {}
    wakeup = _wakeup_pipe()
    seconds_before = earlier.get("seconds_before", 0.0) + earlier.get("seconds", 0.0)
    mark = {"attempt": attempt, "at": time.time(), "seconds_before": seconds_before, "supervisor": process_mark(os.getpid())}
    write_json(folder / STARTED, mark)
    if (folder / STOP).exists():
        record: dict[str, Any] = {"code": None, "signal": None, "reason": "stopped", "seconds": 0.0}
    else:
        record = _attempt(folder, request["body"], lock_fd, wakeup, mark)
    write_json(folder / EXIT, {**record, "attempt": attempt, "at": time.time(), "seconds_before": seconds_before})


def _attempt(folder: Path, body: dict[str, Any], lock_fd: int, wakeup: int, mark: dict[str, Any]) -> dict[str, Any]:
    try:
        watch = Watch(folder, body, lock_fd, wakeup)
    except (OSError, subprocess.SubprocessError) as error:
        return {"code": None, "signal": None, "reason": "spawn_failed", "seconds": 0.0, "message": str(error)}
    write_json(folder / STARTED, {**mark, "trainer": process_mark(watch.child.pid)})
    record = watch.run()
    _hide_in_failure(folder, watch.redactor)
    return record


def main() -> None:
    """Leave the launcher's family, so that it has no child to wait for, then supervise."""
    if os.fork():
        os._exit(0)
    supervise(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
