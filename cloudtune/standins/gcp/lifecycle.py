"""A custom job's life on the stand-in's clock: queued, pending, running, preempted, restarted, ended. No sockets, no processes.

    QUEUED → PENDING → RUNNING → SUCCEEDED | FAILED        CANCELLING → CANCELLED        EXPIRED
       quota    stock    ↑  ↓ preempted or restarted

Rules from Google's page "Understand the serverless training service" (read 2026-11-25): code begins before RUNNING; the
job is over when its primary replica ends; exit codes say whether a worker, the job, or nothing is restarted; the error
comes about a minute after the end. What that page leaves open and is decided here: while a preempted job waits its state
is PENDING; a timeout ends as CANCELLED, as the page of the older service says; a Flex-start wait that is too long as EXPIRED.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cloudtune.standins.gcp.answers import CODES
from cloudtune.standins.gcp.crew import Attempt, Crew, MakeCrew
from cloudtune.standins.gcp.rules import FLEX_START, SPOT, WEEK, metrics_needed, seconds_of
from cloudtune.standins.gcp.scene import Scene

QUEUED, PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLING, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6, 7, 9
STATE_NAMES = {
    number: f"JOB_STATE_{word}"
    for number, word in (
        (QUEUED, "QUEUED"),
        (PENDING, "PENDING"),
        (RUNNING, "RUNNING"),
        (SUCCEEDED, "SUCCEEDED"),
        (FAILED, "FAILED"),
        (CANCELLING, "CANCELLING"),
        (CANCELLED, "CANCELLED"),
        (EXPIRED, "EXPIRED"),
    )
}
FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED, EXPIRED})
PERMANENT = frozenset({1, 137})  # a user's exception, out of memory
TRANSIENT = frozenset({6, 134, 11, 139})  # SIGABRT, SIGSEGV: the whole job again
MOST_WORKER_RESTARTS, MOST_JOB_RETRIES, MOST_STOCK_TRIES, MOST_PREEMPTIONS = 5, 3, 4, 6
DAY = 24 * 3600.0
Used = Counter[str]


@dataclass
class Job:
    """One custom job. ``body`` is what was created; the state machine owns everything else."""

    name: str
    body: Any
    region: str
    created: datetime
    state: int = QUEUED
    updated: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    error: tuple[int, str] | None = None
    shown_as: int | None = None  # a state number that a client may not know
    attempt: int = 0
    due: datetime | None = None  # when the present wait is over
    crew: Crew | None = None
    leaving: str = ""  # why the present crew was asked to end: preempted, cancelled, timeout, done, retry
    restarts: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    preemptions: int = 0
    stock_tries: int = 0
    running_seconds: float = 0.0
    running_since: datetime | None = None

    @cached_property
    def needed(self) -> dict[str, int]:
        """Short quota metric → how much of it the job takes."""
        return metrics_needed(self.body)

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def strategy(self) -> int:
        return int(self.body.job_spec.scheduling.strategy)

    @property
    def key(self) -> str:
        """The number at the end of the name."""
        return self.name.rpartition("/")[2]


@dataclass
class Life:
    """The state machine. ``say`` writes a line of the service's own into the job's log."""

    scene: Scene
    make_crew: MakeCrew
    say: Any

    def step(self, job: Job, now: datetime, used: Used) -> None:
        """Bring ``job`` up to ``now``; several changes may be due at once. ``used``: what all jobs together take of each metric."""
        for _ in range(50):
            before = (job.state, job.due, job.attempt, job.leaving)
            self._once(job, now, used)
            if (job.state, job.due, job.attempt, job.leaving) == before:
                return

    def _once(self, job: Job, now: datetime, used: Used) -> None:
        if job.final:
            return
        if job.leaving:
            if job.crew is None or job.crew.wait(0.0):
                self._left(job, now)
        elif job.state == QUEUED:
            self._queued(job, now, used)
        elif job.state == PENDING:
            self._pending(job, now)
        elif job.state == RUNNING:
            self._running(job, now)

    def _queued(self, job: Job, now: datetime, used: Used) -> None:
        ready = job.created + timedelta(seconds=self.scene.pace.queued)
        if now < ready:
            return
        short = self.shortage(job, used)
        if short and self.scene.quota_shape == "fail":
            self._end(job, FAILED, ready, ("RESOURCE_EXHAUSTED", quota_text(short)))
        elif not short:
            since = now if job.due == datetime.max.replace(tzinfo=now.tzinfo) else ready
            used.update(job.needed)
            self._move(job, PENDING, since)
            job.due = since + timedelta(seconds=self.scene.pace.provisioning)
            self.say(job, since, "Waiting for job to be provisioned.")
        else:
            job.due = datetime.max.replace(tzinfo=now.tzinfo)  # waits for quota, not for a time

    def shortage(self, job: Job, used: Used) -> list[str]:
        """The metrics whose limit this job would break, with what runs already."""
        limits = self.scene.quotas
        short = [metric for metric, amount in job.needed.items() if metric in limits and amount + used[metric] > limits[metric]]
        return sorted(short, key=lambda metric: (metric.endswith("cpus"), metric))

    def _pending(self, job: Job, now: datetime) -> None:
        if job.due is None or now < job.due:
            return
        if job.crew is None:
            if self._no_stock(job, now):
                return
            missing = self.scene.missing_images & {pool.container_spec.image_uri for pool in job.body.job_spec.worker_pool_specs}
            if missing:
                text = f"Failed to pull image {sorted(missing)[0]}: the image does not exist, or the service agent may not read it."
                self._end(job, FAILED, job.due, ("INVALID_ARGUMENT", text))
                return
            job.attempt += 1
            job.crew = self.make_crew(Attempt(job.body, job.name, job.attempt, lambda replica, line: self.say(job, None, line, replica)))
            job.due = job.due + timedelta(seconds=self.scene.pace.all_up)
            return
        up = job.due
        self._move(job, RUNNING, up)
        job.started = job.started or up
        job.running_since = up
        job.due = self._limit(job, up)
        self.say(job, up, "Job is running.")

    def _limit(self, job: Job, since: datetime) -> datetime:
        """When the time limit ends the job: the time in which it ran counts, over all its restarts."""
        limit = seconds_of(job.body.job_spec.scheduling, "timeout") or WEEK
        return since + timedelta(seconds=max(0.0, limit - job.running_seconds))

    def _no_stock(self, job: Job, now: datetime) -> bool:
        """Whether the region has no such machine at the moment; then wait, try again, or give up."""
        wanted = {pool.machine_spec.machine_type for pool in job.body.job_spec.worker_pool_specs}
        if not wanted & self.scene.sold_out:
            return False
        if job.strategy == FLEX_START:
            wait = seconds_of(job.body.job_spec.scheduling, "max_wait_duration")
            longest = DAY if wait is None else wait
            if longest and now >= job.created + timedelta(seconds=longest):
                text = "The job waited for resources longer than its max_wait_duration."
                self._end(job, EXPIRED, job.created + timedelta(seconds=longest), ("DEADLINE_EXCEEDED", text))
            else:
                job.due = now
            return True
        job.stock_tries += 1
        if job.stock_tries >= MOST_STOCK_TRIES:
            text = f"Resources are insufficient in region: {job.region}. Try a different region or use a different accelerator."
            self._end(job, FAILED, job.due or now, ("RESOURCE_EXHAUSTED", text))
        else:
            job.due = (job.due or now) + timedelta(seconds=self.scene.pace.reject_stock)
        return True

    def _running(self, job: Job, now: datetime) -> None:
        crew = job.crew
        if crew is None:
            return
        ended = crew.ended()
        bad = {replica: code for replica, code in ended.items() if code}
        if ended.get("workerpool0-0") == 0:
            self._leave(job, "done", now)
        elif bad:
            self._failed_replica(job, *next(iter(bad.items())), now)
        elif job.due is not None and now >= job.due:
            self.say(job, now, "The job has run longer than its timeout and is cancelled.")
            self._leave(job, "timeout", now)

    def _failed_replica(self, job: Job, replica: str, code: int, now: datetime) -> None:
        scheduling = job.body.job_spec.scheduling
        again = not scheduling.disable_retries
        if code in PERMANENT or not again:
            self._give_up(job, replica, code, now)
        elif code in TRANSIENT:
            self._retry(job, replica, code, now)
        elif job.restarts.get(replica, 0) >= MOST_WORKER_RESTARTS:
            job.restarts.clear()
            self._retry(job, replica, code, now)
        elif scheduling.restart_job_on_worker_restart:
            job.restarts[replica] = job.restarts.get(replica, 0) + 1
            self._leave(job, "restart", now)
        else:
            job.restarts[replica] = job.restarts.get(replica, 0) + 1
            self.say(job, now, f"The replica {replica} exited with a non-zero status of {code}. Restarting it.")
            if job.crew is not None:
                job.crew.restart(replica)

    def _retry(self, job: Job, replica: str, code: int, now: datetime) -> None:
        if job.retries >= MOST_JOB_RETRIES:
            self._give_up(job, replica, code, now)
        else:
            job.retries += 1
            self._leave(job, "restart", now)

    def _give_up(self, job: Job, replica: str, code: int, now: datetime) -> None:
        if code == 137:
            text = f"The replica {replica} ran out-of-memory and exited with a non-zero status of 137(SIGKILL)."
        else:
            text = f"The replica {replica} exited with a non-zero status of {code}. Termination reason: Error."
        link = f"https://console.cloud.google.com/logs/viewer?project={self.scene.number}&resource=ml_job%2Fjob_id%2F{job.key}"
        job.error = (CODES["INVALID_ARGUMENT"][0], f"{text}\nTo find out more about why your job exited please check the logs: {link}")
        self._leave(job, "failed", now)

    def _leave(self, job: Job, why: str, now: datetime) -> None:
        """Ask the crew to end; ``_left`` goes on when it has."""
        job.leaving = why
        job.due = now
        if job.crew is not None:
            job.crew.stop(self.scene.pace.grace)

    def preempt(self, job: Job, now: datetime) -> None:
        """Take the machines of a Spot job away: SIGTERM, a short grace, the end of everything."""
        if job.strategy != SPOT or job.crew is None or job.leaving:
            raise ValueError(f"{job.name} is no Spot job on machines at the moment")
        self.say(job, now, "The Spot VM of the job was preempted.")
        self._leave(job, "preempted", now)

    def cancel(self, job: Job, now: datetime) -> None:
        """Begin to end a job that is not over."""
        self._move(job, CANCELLING, now)
        self._leave(job, "cancelled", now)

    def _left(self, job: Job, now: datetime) -> None:
        why, job.leaving = job.leaving, ""
        job.crew = None
        if job.running_since is not None:
            job.running_seconds += (now - job.running_since).total_seconds()
            job.running_since = None
        if why == "done":
            self._end(job, SUCCEEDED, now, None)
        elif why == "failed":
            self._end(job, FAILED, now, None)
        elif why in ("cancelled", "timeout"):
            self._end(job, CANCELLED, now, ("CANCELLED", "CANCELED"))
        elif why == "preempted" and (job.preemptions >= MOST_PREEMPTIONS or job.body.job_spec.scheduling.disable_retries):
            text = f"Resources are insufficient in region: {job.region}. Try a different region or use a different accelerator."
            self._end(job, FAILED, now, ("RESOURCE_EXHAUSTED", text))
        else:
            job.preemptions += why == "preempted"
            pause = self.scene.pace.preempted if why == "preempted" else self.scene.pace.retry
            self._move(job, PENDING, now)
            job.due = now + timedelta(seconds=pause)

    def _move(self, job: Job, state: int, at: datetime) -> None:
        job.state = state
        job.updated = at

    def _end(self, job: Job, state: int, at: datetime, error: tuple[str, str] | None) -> None:
        self._move(job, state, at)
        job.ended = at
        job.due = None
        if error is not None:
            job.error = (CODES[error[0]][0], error[1])
        self.say(job, at, {SUCCEEDED: "Job completed successfully.", CANCELLED: "Job cancelled."}.get(state, "Job failed."))


def used_by(jobs: Iterable[Job]) -> Used:
    """What the jobs that have or wait for machines take of each metric."""
    used: Used = Counter()
    for job in jobs:
        if not job.final and job.state != QUEUED:
            used.update(job.needed)
    return used


def quota_text(metrics: list[str]) -> str:
    """Google's sentence for a job that the quota does not allow."""
    return "The following quota metrics exceed quota limits: " + ",".join(f"aiplatform.googleapis.com/{metric}" for metric in metrics)
