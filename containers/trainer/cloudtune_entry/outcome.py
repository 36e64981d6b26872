"""How the job ended, in one sentence and one exit code, and the files that say so. Writes ``failure`` and ``status.json``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudtune_entry.child import End
from cloudtune_entry.credentials import redacted
from cloudtune_entry.ground import Ground

COMPLETE, FAILED, INTERRUPTED = 0, 1, 75
INTERRUPTED_ON_SAGEMAKER = 143  # what `docker stop` reports; SageMaker knows by itself whether it stopped or reclaimed the machine
KILLED = 137
FAILURE_BYTES = 1024  # SageMaker shows this much
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MEMORY_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_SIGNALS = {4: "an illegal instruction", 6: "an abort inside a library", 7: "a bus error", 11: "a segmentation fault"}


@dataclass(frozen=True)
class Outcome:
    """``word`` is complete, interrupted or failed; ``code`` is the container's exit code on this platform."""

    word: str
    code: int
    sentence: str


def judge(end: End, ground: Ground, kills_before: int) -> Outcome:
    """The trainer's end in words. ``kills_before``: the memory kills that the cgroup had counted when we started."""
    manifest = _manifest_outcome(ground.root / "model" / "manifest.json")
    if end.code == COMPLETE:
        return Outcome("complete", COMPLETE, "the training is complete")
    if end.code == INTERRUPTED or (end.asked and manifest == "interrupted"):
        code = INTERRUPTED_ON_SAGEMAKER if ground.kind == "sagemaker" else INTERRUPTED
        return Outcome("interrupted", code, "interrupted by SIGTERM; a checkpoint is saved, and the same job goes on from it")
    if end.code == -9 or memory_kills() > kills_before:
        return Outcome("failed", KILLED, _killed(kills_before))
    if end.code < 0:
        what = _SIGNALS.get(-end.code, f"signal {-end.code}")
        return Outcome("failed", 128 - end.code, f"the training process was ended by {what}")
    return Outcome("failed", FAILED, _reason(ground) or f"the trainer ended with exit code {end.code}; the log's last lines say why")


def _killed(kills_before: int) -> str:
    limit = memory_limit()
    if memory_kills() > kills_before:
        size = f" of {limit / 2**20:,.0f} MiB" if limit else ""
        return f"out of host memory: the container's memory limit{size} was reached and the kernel killed the trainer (exit code 137)"
    return "the trainer was killed with SIGKILL (exit code 137): out of memory on the whole machine, or killed by hand"


def memory_kills() -> int:
    """How often the kernel killed something in this container for its memory limit (cgroup v2 or v1); 0 when it does not say."""
    for path in _MEMORY_EVENTS:
        try:
            counts = dict(line.split() for line in Path(path).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(counts.get("oom_kill", 0))
    return 0


def memory_limit() -> int | None:
    """The container's memory limit in bytes, None when there is none."""
    for path in _MEMORY_LIMITS:
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):
            continue
        return limit if limit < 2**60 else None
    return None


def _manifest_outcome(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes()).get("outcome", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _reason(ground: Ground) -> str:
    try:
        return (ground.output / "failure").read_text(errors="replace").strip().split("\n", 1)[0]
    except OSError:
        return ""


def write_marks(ground: Ground, outcome: Outcome, *, started: float, attempt: int, secrets: Mapping[str, str]) -> None:
    """``output/failure`` (unless the trainer wrote a better one) and ``output/data/status.json``. A full disk is survived."""
    failure = ground.output / "failure"
    try:
        if outcome.word == "failed":
            text = failure.read_bytes() if failure.exists() and failure.stat().st_size else outcome.sentence.encode() + b"\n"
            failure.write_bytes(redacted(text, secrets))
        else:
            failure.unlink(missing_ok=True)
        status = {
            "outcome": outcome.word,
            "exit_code": outcome.code,
            "message": redacted(outcome.sentence.encode(), secrets).decode(),
            "platform": ground.kind,
            "attempt": attempt,
            "started": round(started, 3),
            "ended": round(time.time(), 3),
        }
        place = ground.output / "data" / "status.json"
        fresh = place.with_suffix(".new")
        fresh.write_text(json.dumps(status, indent=1) + "\n")
        fresh.replace(place)
    except OSError as error:
        say(f"the job's end could not be written to {ground.output}: {error.strerror}")


def count_attempt(ground: Ground) -> int:
    """One line for every start of this job: the only trace that a platform's own restart leaves. Returns this start's number."""
    record = ground.output / "data" / "starts.jsonl"
    try:
        before = len(record.read_text().splitlines()) if record.exists() else 0
        with record.open("a") as stream:
            stream.write(json.dumps({"at": round(time.time(), 3), "attempt": before + 1, "platform": ground.kind}) + "\n")
    except OSError:
        return 1
    return before + 1


def say(text: str) -> None:
    """One line of the supervisor's own in the job's log."""
    sys.stdout.write(f"cloudtune: {text}\n")
    sys.stdout.flush()
