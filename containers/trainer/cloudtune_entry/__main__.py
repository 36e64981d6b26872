"""The supervisor from top to bottom: find the ground, check, hand over to the trainer, say how it ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from cloudtune_entry import accelerator, child, cluster, credentials, lifeline, mirror, outcome, owner, rights
from cloudtune_entry.ground import Ground, Trouble, find_ground, lay_out
from cloudtune_entry.orders import read_orders
from cloudtune_entry.outcome import say


def main() -> int:
    """Supervise one job; returns the container's exit code."""
    signals = child.Signals()
    ground = find_ground(os.environ)
    started = time.time()
    secrets: dict[str, str] = {}
    copies = mirror.Mirror()
    attempt = 1
    try:
        other = owner.other_owner(ground, os.environ)
        if other:
            say(f"{other}; ending")
            return outcome.COMPLETE
        copies = mirror.make_mirror(ground, os.environ)
        lay_out(ground, os.environ)
        _restore(copies)
        attempt = outcome.count_attempt(ground)
        say(f"{ground.kind} container, start {attempt} of this job, folders below {ground.root}")
        ended = _train(ground, signals, copies, secrets)
    except Trouble as trouble:
        ended = outcome.Outcome("failed", outcome.FAILED, str(trouble))
    outcome.write_marks(ground, ended, started=started, attempt=attempt, secrets=secrets)
    if ended.word == "failed":
        copies.copy()
    elif not copies.finish() and ended.word == "complete":
        ended = outcome.Outcome("failed", outcome.FAILED, "the training is complete, and its results could not be copied to the bucket")
        outcome.write_marks(ground, ended, started=started, attempt=attempt, secrets=secrets)
        copies.copy()
    say(f"{ended.word}: {credentials.redacted(ended.sentence.encode(), secrets).decode()}")
    return ended.code


def _restore(copies: mirror.Mirror) -> None:
    try:
        restored = copies.restore()
    except OSError as error:
        raise Trouble(f"the checkpoints in the bucket cannot be read: {error.strerror}") from error
    if restored:
        say(f"{restored} checkpoint(s) brought back from the bucket")


def _train(ground: Ground, signals: child.Signals, copies: mirror.Mirror, secrets: dict[str, str]) -> outcome.Outcome:
    """Everything between a laid-out ground and the trainer's end. Fills ``secrets`` so that the caller can redact."""
    orders = read_orders(ground.job_file)
    machines = cluster.find_cluster(ground, os.environ)
    command = cluster.command(orders, machines)
    found, notes = credentials.fetch(orders.secrets, os.environ)
    secrets.update(found)
    for note in notes:
        say(note)
    environ = _environment(ground, machines, found)
    accelerator.prepare_paths(ground, environ)
    say(accelerator.check(orders, environ))
    granted = rights.decide(ground, keep=bool(os.environ.get(rights.KEEP_VARIABLE)))
    say(granted.sentence)
    cluster.await_master(machines)
    if signals.asked:
        return outcome.Outcome("interrupted", _interrupted(ground), "asked to stop before the training began")
    kills = outcome.memory_kills()
    tie = lifeline.make_lifeline(os.environ)

    def every_tick() -> None:
        copies.tick()
        tie.tick(signals)

    end = child.run(command, environ, signals, user=granted.user, secrets=found, every_tick=every_tick)
    return outcome.judge(end, ground, kills)


def _interrupted(ground: Ground) -> int:
    return outcome.INTERRUPTED_ON_SAGEMAKER if ground.kind == "sagemaker" else outcome.INTERRUPTED


def _environment(ground: Ground, machines: cluster.Cluster, secrets: Mapping[str, str]) -> dict[str, str]:
    """The trainer's environment: ours, the secrets, and caches on the big disk instead of a small or read-only root."""
    environ = {**credentials.without(os.environ), **secrets, "CLOUDTUNE_ROOT": str(ground.root)}
    environ["HOME"] = environ.get("CLOUDTUNE_HOME_IN_JOB", "/tmp/cloudtune-home")  # noqa: S108 - the platforms' scratch disk
    environ.setdefault("HF_HOME", f"{environ['HOME']}/huggingface")
    if machines.interface:
        environ.setdefault("NCCL_SOCKET_IFNAME", machines.interface)
    return environ


if __name__ == "__main__":
    sys.exit(main())
