"""The stand-in's own handles over HTTP, below ``/standin``, for whoever runs it as a program of its own. Google has nothing like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.standins.faults import KINDS
from cloudtune.standins.gcp.answers import ApiError
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

if TYPE_CHECKING:
    from cloudtune.standins.gcp.cloud import GcpStandin


class Controls:
    """The routes."""

    def __init__(self, cloud: GcpStandin) -> None:
        self._cloud = cloud

    def routes(self) -> list[Route]:
        return [
            route("GET", "/standin/calls", "standin", self.calls),
            route("GET", "/standin/jobs", "standin", self.jobs),
            route("POST", "/standin/advance", "standin", self.advance),
            route("POST", "/standin/preempt", "standin", self.preempt),
            route("POST", "/standin/fault", "standin", self.fault),
        ]

    def calls(self, call: Call) -> Answer:  # noqa: ARG002 - every route gets the call
        """How often each operation was called."""
        return Answer({name: count for name, count in self._cloud.faults.calls.items() if name != "standin"})

    def jobs(self, call: Call) -> Answer:
        """Accepted jobs, oldest first; ``launch`` keeps those of one launch."""
        found = self._cloud.jobs(call.query.get("launch"))
        return Answer([{"name": job.name, "state": job.state, "attempt": job.attempt, "labels": dict(job.body.labels)} for job in found])

    def advance(self, call: Call) -> Answer:
        """``seconds`` of the cloud pass at once."""
        self._cloud.clock.advance(float(call.json().get("seconds", 0)))
        return Answer({})

    def preempt(self, call: Call) -> Answer:
        """The Spot machines of ``job`` are taken away."""
        try:
            self._cloud.preempt(str(call.json().get("job", "")))
        except ValueError as error:
            raise ApiError("FAILED_PRECONDITION", str(error)) from error
        return Answer({})

    def fault(self, call: Call) -> Answer:
        """Plan a fault: ``operation``, ``kind``, ``times`` (null: until the end), ``after``."""
        body = call.json()
        if body.get("kind") not in KINDS:
            raise ApiError("INVALID_ARGUMENT", f"no such fault: {body.get('kind')}; there are {', '.join(KINDS)}")
        self._cloud.faults.add(str(body.get("operation", "*")), body["kind"], body.get("times", 1), after=int(body.get("after", 0)))
        return Answer({})
