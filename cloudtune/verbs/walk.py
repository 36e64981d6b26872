"""The steps of a rehearsal after the small job is made, each leaving one sentence of proof or raising ``Shortfall``.

Uses the verbs as a user does: launch, track, logs, collect. Knows no cloud.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError
from cloudtune.job import JobState
from cloudtune.verbs.collect import Collected, collect
from cloudtune.verbs.cost import cost
from cloudtune.verbs.launch import launch
from cloudtune.verbs.rehearsal import Shortfall
from cloudtune.verbs.track import Tracker

if TYPE_CHECKING:
    from cloudtune.job import JobView, LaunchId
    from cloudtune.session import Session
    from cloudtune.standins.registry import Cloud
    from cloudtune.verbs.loading import Load
    from cloudtune.verbs.small import Small, SmallStager

MOST_SECONDS = 1_500.0
LAST_LINES_SECONDS = 30.0
POLL_SECONDS = 0.5
_SAVED = "checkpoint step-"


@dataclass
class Walk:
    """One rehearsal under way."""

    small: Small
    session: Session
    cloud: Cloud
    stager: SmallStager
    launch_id: str
    folder: Path
    say: Callable[[str], None]
    load: Load
    view: JobView | None = None
    lines: list[str] = field(default_factory=list)
    streams: set[str] = field(default_factory=set)
    states: list[JobState] = field(default_factory=list)
    cursor: str | None = None
    log_done: bool = False
    taken: bool = False
    collected: Collected | None = None

    @property
    def spot(self) -> bool:
        return self.small.plan.chosen.purchase == "spot"

    @property
    def job(self) -> LaunchId:
        if self.view is None:
            raise Shortfall("launch", "there is no job")
        return self.view.id

    def short(self, what: str) -> Shortfall:
        return Shortfall("", what, "\n".join(self.lines))


def steps_of(walk: Walk) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, step) in order; each is only taken when the one before it proved its point."""
    yield "launch", lambda: _launch(walk)
    yield "run and log", lambda: _follow(walk)
    if walk.spot:
        yield "interruption and resume", lambda: _resumed(walk)
    yield "cost", lambda: _cost(walk)
    yield "collect", lambda: _collect(walk)
    yield "load", lambda: _load(walk)


def _launch(walk: Walk) -> str:
    """Checks, upload and submit, by the verb that a real launch uses."""
    try:
        walk.view = launch(walk.small.plan, session=walk.session, launch_id=walk.launch_id, progress=walk.say)
    except CloudtuneError as error:
        raise walk.short(f"{error.what}{f'; {error.hint}' if error.hint else ''}") from error
    uris = walk.stager.staged.uris if walk.stager.staged else {}
    again = launch(walk.small.plan, session=walk.session, launch_id=walk.launch_id)
    if again.ref != walk.view.ref:
        raise walk.short("the same launch twice made two jobs")
    return f"checked, {len(uris)} channels uploaded ({', '.join(sorted(uris))}), {walk.view.ref} accepted; launched twice it is one job"


def _follow(walk: Walk) -> str:
    """Track the job and its log to the end; take its spot machine away after the first checkpoint."""
    tracker = Tracker(walk.job, walk.session, POLL_SECONDS)
    end = time.monotonic() + MOST_SECONDS
    try:
        while not tracker.done:
            for view in tracker.round():
                _note(walk, view)
            _read(walk)
            if walk.spot and not walk.taken and any(_SAVED in line for line in walk.lines):
                walk.cloud.take_away(walk.job)
                walk.taken = True
                walk.say("spot machine taken away")
            if time.monotonic() > end:
                raise walk.short(f"the job did not end within {MOST_SECONDS:.0f} s; it is {walk.states[-1]}")
            walk.session.clock.sleep(tracker.pause)
        _read_to_the_end(walk)
    except CloudtuneError as error:
        raise walk.short(f"following the job failed: {error.what}") from error
    if walk.view is None or walk.view.state is not JobState.SUCCEEDED:
        raise walk.short(f"the job is {walk.states[-1]}: {walk.view.message if walk.view else ''}")
    shown = " → ".join(walk.states)
    return f"{shown}; {len(walk.lines):,} lines of {len(walk.streams)} machine(s)"


def _note(walk: Walk, view: JobView) -> None:
    walk.view = view
    if not walk.states or walk.states[-1] is not view.state:
        walk.states.append(view.state)
        walk.say(f"{view.state}{f': {view.message}' if view.message else ''}")


def _read(walk: Walk) -> None:
    """The next page of the log; a log that is not there yet is read later."""
    source = walk.session.place(walk.small.plan.chosen.provider).logs
    if source is None or walk.view is None or walk.view.ref is None or walk.log_done:
        return
    try:
        page = source.read(walk.view.ref, walk.cursor)
    except CloudtuneError as error:
        if error.retryable:
            return
        raise
    walk.lines += [line.text for line in page.lines]
    walk.streams.update(line.stream for line in page.lines)
    walk.cursor, walk.log_done = page.cursor, page.done


def _read_to_the_end(walk: Walk) -> None:
    end = time.monotonic() + LAST_LINES_SECONDS
    while not walk.log_done and time.monotonic() < end:
        _read(walk)
        walk.session.clock.sleep(POLL_SECONDS)


def _resumed(walk: Walk) -> str:
    if not walk.taken:
        raise walk.short("no checkpoint was seen in the log, so the machine was not taken away; more steps, or a smaller save_steps")
    starts = walk.cloud.starts(walk.job)
    if starts < 2:
        raise walk.short("the job ended before its machine could be taken away; more steps, or a smaller save_steps")
    resumed = [line for line in walk.lines if "resum" in line.lower()]
    if not resumed:
        raise walk.short("the second start did not go on from a checkpoint")
    seen = "seen as interrupted" if JobState.INTERRUPTED in walk.states else "too short to be seen by the tracker"
    return f"{starts} starts of one job, {seen}; {resumed[0].strip()}"


def _cost(walk: Walk) -> str:
    """What the launcher says that the job has cost, from what the cloud says that it bills."""
    total = cost(walk.session).total
    if not total.hours or total.usd is None:
        raise walk.short("the cloud's count of seconds did not arrive")
    bill = "by the cloud's bill" if total.final else "so far"
    return f"{total.hours * 3600:,.0f} s of machines, {total.usd:.4f} USD {bill} on a real account"


def _collect(walk: Walk) -> str:
    home = walk.folder / "collected"
    try:
        walk.collected = collect(walk.job, session=walk.session, to=home, progress=walk.say)
    except CloudtuneError as error:
        raise walk.short(f"{error.what}; {error.hint}") from error
    manifest = walk.collected.manifest
    if manifest is None or manifest.outcome != "complete":
        raise walk.short("the collected manifest is not that of a complete run")
    if walk.spot and not manifest.resumed_from_step:
        raise walk.short("the manifest does not say that the run went on from a checkpoint")
    resumed = f", resumed from step {manifest.resumed_from_step} of {manifest.total_steps}" if manifest.resumed_from_step else ""
    return f"{len(walk.collected.files)} files, {walk.collected.fetched_bytes:,} bytes, every size and digest right{resumed}"


def _load(walk: Walk) -> str:
    """The result loaded in a new process and measured again, by the trainer's own program."""
    if walk.collected is None:
        raise walk.short("nothing was collected")
    found = walk.load(walk.collected.folder, walk.small.base)
    return f"loaded in a new process, evaluation loss {found['eval_loss']:.5f} again over {found['rows']} rows"
