"""CodeBuild that takes a while and can fail: moto's own service, whose builds always succeed at the first look, with that amended."""

from __future__ import annotations

from typing import Any


class Builds:
    """``looks``: BatchGetBuilds calls during which a build is still under way. ``failing``: builds to come that fail."""

    def __init__(self, region: str, account: str) -> None:
        from moto.codebuild.models import codebuild_backends

        self.looks = 1
        self.failing = 0
        self._seen: dict[str, int] = {}
        self._failed: set[str] = set()
        backend: Any = codebuild_backends[account][region]
        self._answer = type(backend).batch_get_builds.__get__(backend)
        self._start = type(backend).start_build.__get__(backend)
        backend.batch_get_builds = self._get
        backend.start_build = self._begin

    def _begin(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        build: dict[str, Any] = self._start(*arguments, **named)
        if self.failing > 0:
            self.failing -= 1
            self._failed.add(build["id"])
        return build

    def _get(self, ids: list[str]) -> list[dict[str, Any]]:
        builds: list[dict[str, Any]] = self._answer(ids)
        for build in builds:
            self._seen[build["id"]] = self._seen.get(build["id"], 0) + 1
            if self._seen[build["id"]] <= self.looks:
                build.update(buildStatus="IN_PROGRESS", currentPhase="BUILD")
            elif build["id"] in self._failed:
                build.update(buildStatus="FAILED", currentPhase="COMPLETED")
                context = {
                    "statusCode": "COMMAND_EXECUTION_ERROR",
                    "message": "Error while executing command: docker build. Reason: exit status 1",
                }
                build["phases"] = [
                    {**phase, "phaseStatus": "FAILED", "contexts": [context]} if phase.get("phaseType") == "BUILD" else phase
                    for phase in build["phases"]
                ]
        return builds
