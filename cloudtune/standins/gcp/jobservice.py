"""Vertex AI's JobService, the part about custom jobs: requests and answers are the library's own protos. No transport here.

rpc.py serves it over gRPC, rest.py over HTTP; both ask the plan of faults before they call.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from cloudtune.standins.gcp import rules
from cloudtune.standins.gcp.answers import ApiError, denied, not_found
from cloudtune.standins.gcp.filters import parse_filter
from cloudtune.standins.gcp.lifecycle import STATE_NAMES, Job, Life, quota_text, used_by
from cloudtune.standins.gcp.machines import REGIONS
from cloudtune.standins.gcp.scene import Scene

DELETE_SECONDS = 5.0
_PARENT = re.compile(r"projects/([^/]+)/locations/([^/]+)")


@dataclass
class JobBook:
    """Every job of the project by name, in the order of creation. Thread-safe; each call first brings the jobs up to now."""

    scene: Scene
    now: Callable[[], datetime]
    life: Life
    jobs: dict[str, Job] = field(default_factory=dict)
    operations: dict[str, tuple[datetime, str]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _made: dict[str, int] = field(default_factory=dict)

    def tick(self) -> None:
        """Bring every job up to now."""
        with self.lock:
            now, jobs = self.now(), [job for job in self.jobs.values() if not job.final]
            used = used_by(jobs)
            for job in jobs:
                self.life.step(job, now, used)
            for due, target in self.operations.values():
                if now >= due and target in self.jobs:
                    del self.jobs[target]

    def create(self, request: Any) -> Any:
        """CreateCustomJob: checks, then a new job under a number of the service's own."""
        project, region = self._place(request.parent)
        self._may("aiplatform.customJobs.create", request.parent)
        rules.check_job(request.custom_job, region, self.scene)
        with self.lock:
            self.tick()
            body = _copy(request.custom_job)
            key = str(10**18 + secrets.randbelow(8 * 10**18))
            job = Job(f"projects/{project}/locations/{region}/customJobs/{key}", body, region, self.now())
            short = self.life.shortage(job, used_by(self.jobs.values()))
            if short and self.scene.quota_shape == "reject":
                raise ApiError("RESOURCE_EXHAUSTED", quota_text(short))
            self._made[job.name] = len(self._made) + 1
            self.jobs[job.name] = job
            return self.shown(job)

    def get(self, request: Any) -> Any:
        """GetCustomJob."""
        self._may("aiplatform.customJobs.get", request.name)
        with self.lock:
            self.tick()
            return self.shown(self._job(request.name))

    def listed(self, request: Any) -> tuple[list[Any], str]:
        """ListCustomJobs: newest first; a new job shows after the scene's lag. (jobs, next page token)."""
        _, region = self._place(request.parent)
        self._may("aiplatform.customJobs.list", request.parent)
        test = parse_filter(request.filter)
        before = _token(request.page_token)
        size = min(request.page_size or self.scene.jobs_page, self.scene.jobs_page)
        with self.lock:
            self.tick()
            seen = self.now() - timedelta(seconds=self.scene.list_lag)
            found = (
                job
                for job in reversed(self.jobs.values())
                if job.region == region and job.created <= seen and self._made[job.name] < before and test(_lookup(job))
            )
            page = list(islice(found, size + 1))
            more = f"{self._made[page[size - 1].name]:x}" if len(page) > size else ""
            return [_masked(self.shown(job), request) for job in page[:size]], more

    def cancel(self, request: Any) -> None:
        """CancelCustomJob: best effort; a job that is over refuses."""
        self._may("aiplatform.customJobs.cancel", request.name)
        with self.lock:
            self.tick()
            job = self._job(request.name)
            if job.final:
                raise ApiError(
                    "FAILED_PRECONDITION", f"The CustomJob {job.name} is in state {self.shown(job).state.name} and cannot be cancelled."
                )
            if job.leaving != "cancelled":
                self.life.cancel(job, self.now())
            self.tick()

    def delete(self, request: Any) -> Any:
        """DeleteCustomJob: a long-running operation; a job that is not over refuses."""
        self._may("aiplatform.customJobs.delete", request.name)
        with self.lock:
            self.tick()
            job = self._job(request.name)
            if not job.final:
                raise ApiError("FAILED_PRECONDITION", f"The CustomJob {job.name} is not in a final state; cancel it before it is deleted.")
            name = f"{job.name.partition('/customJobs/')[0]}/operations/{secrets.randbelow(10**18)}"
            self.operations[name] = (self.now() + timedelta(seconds=DELETE_SECONDS), job.name)
            return self._operation(name)

    def operation(self, request: Any) -> Any:
        """GetOperation of the long-running operations service."""
        with self.lock:
            self.tick()
            return self._operation(request.name)

    def _operation(self, name: str) -> Any:
        from google.cloud.aiplatform_v1.types import DeleteOperationMetadata
        from google.longrunning import operations_pb2
        from google.protobuf import any_pb2, empty_pb2

        if name not in self.operations:
            raise not_found("Operation", name)
        due, _ = self.operations[name]
        facts = any_pb2.Any()
        facts.Pack(DeleteOperationMetadata.pb(DeleteOperationMetadata()))
        operation = operations_pb2.Operation(name=name, done=self.now() >= due, metadata=facts)
        if operation.done:
            operation.response.Pack(empty_pb2.Empty())
        return operation

    def shown(self, job: Job) -> Any:
        """The job as a client sees it now: the error is not there before its time."""
        body = _copy(job.body)
        raw = body._pb  # noqa: SLF001 - times and unknown numbers can be set on the plain proto only
        raw.name = job.name
        raw.state = job.state if job.shown_as is None else job.shown_as
        raw.create_time.FromDatetime(job.created)
        raw.update_time.FromDatetime(job.updated or job.created)
        if job.started:
            raw.start_time.FromDatetime(job.started)
        if job.ended:
            raw.end_time.FromDatetime(job.ended)
        if job.error and job.ended and self.now() >= job.ended + timedelta(seconds=self.scene.pace.error_late):
            raw.error.code, raw.error.message = job.error
        return body

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            raise not_found("CustomJob", name)
        return self.jobs[name]

    def _place(self, parent: str) -> tuple[str, str]:
        found = _PARENT.fullmatch(parent)
        if found is None:
            raise ApiError("INVALID_ARGUMENT", f"Invalid resource name: {parent}")
        project, region = found.groups()
        if project not in (self.scene.project, str(self.scene.number)):
            facts = {"consumer": f"projects/{project}", "service": "aiplatform.googleapis.com"}
            raise ApiError("PERMISSION_DENIED", f"Permission denied on resource project {project}.", "CONSUMER_INVALID", facts)
        if region not in REGIONS:
            raise ApiError("INVALID_ARGUMENT", f"Unsupported region for Vertex AI: {region}")
        return str(self.scene.number), region

    def _may(self, permission: str, resource: str) -> None:
        if permission in self.scene.denied:
            raise denied(permission, resource)


def _copy(message: Any) -> Any:
    fresh = type(message)()
    fresh._pb.CopyFrom(message._pb)  # noqa: SLF001 - proto-plus has no copy that keeps unknown fields
    return fresh


def _masked(job: Any, request: Any) -> Any:
    paths = list(request.read_mask.paths)
    if not paths or paths == ["*"]:
        return job
    fresh = type(job)()
    request.read_mask.MergeMessage(job._pb, fresh._pb)  # noqa: SLF001 - masks work on plain protos
    return fresh


def _token(token: str) -> int:
    try:
        return int(token, 16) if token else 2**60
    except ValueError:
        raise ApiError("INVALID_ARGUMENT", "The page token is invalid.") from None


def _lookup(job: Job) -> Callable[[str], Any]:
    def look(name: str) -> Any:
        head, _, rest = name.partition(".")
        if head == "labels":
            return job.body.labels.get(rest.strip('"'))
        if head == "state":
            return STATE_NAMES.get(job.state, str(job.state))
        if head == "create_time":
            return job.created
        if head == "display_name":
            return job.body.display_name
        raise ApiError("INVALID_ARGUMENT", f"Invalid list filter: unsupported field {name}")

    return look
