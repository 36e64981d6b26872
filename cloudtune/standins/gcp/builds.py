"""Cloud Build: takes a build, checks its source in the bucket, and after a while there is an image under its names.

The image is recorded, not built: its digest is that of the context. What a real build proves, a local engine proves too.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cloudtune.standins.gcp.answers import ApiError, denied, not_found
from cloudtune.standins.gcp.objects import ObjectStore
from cloudtune.standins.gcp.registry import Registry
from cloudtune.standins.gcp.scene import Scene
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

DEFAULT_TIMEOUT = 600.0  # Google's own; too short for an image with CUDA
_IMAGE = re.compile(r"(?P<host>[a-z0-9.:-]+)/(?P<image>[^/]+/[^/]+/[^:@]+):(?P<tag>[\w.-]+)")


@dataclass
class _Build:
    body: dict[str, Any]
    created: datetime
    seconds: float
    timeout: float
    context: bytes
    fault: str
    images: list[dict[str, str]] = field(default_factory=list)
    cancelled: bool = False


@dataclass
class Builds:
    """Every build, brought up to now when it is asked for."""

    scene: Scene
    store: ObjectStore
    registry: Registry
    now: Callable[[], datetime]
    builds: dict[str, _Build] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        found = []
        for place in ("/v1/projects/{project}", "/v1/projects/{project}/locations/{region}"):
            found += [
                route("POST", f"{place}/builds", "builds.create", self.create),
                route("GET", f"{place}/builds/{{build}}", "builds.get", self.get),
                route("POST", f"{place}/builds/{{build}}:cancel", "builds.cancel", self.cancel),
            ]
        return [*found, route("GET", "/v1/operations/build/{project}/{build}", "builds.operation", self.operation)]

    def create(self, call: Call) -> Answer:
        """An operation whose metadata is the build."""
        if "cloudbuild.builds.create" in self.scene.denied:
            raise denied("cloudbuild.builds.create", f"projects/{call.parts['project']}", "cloudbuild.googleapis.com")
        body = call.json()
        if not body.get("steps"):
            raise ApiError("INVALID_ARGUMENT", "invalid build: no build steps specified")
        for image in body.get("images", []):
            if not _IMAGE.fullmatch(image):
                raise ApiError("INVALID_ARGUMENT", f'invalid build: invalid image name "{image}"')
        context, fault = self._context(body.get("source", {}).get("storageSource", {}))
        key = str(uuid.uuid4())
        timeout = float(str(body.get("timeout", f"{DEFAULT_TIMEOUT:.0f}s")).removesuffix("s"))
        self.builds[key] = _Build(body, self.now(), self.scene.pace.build, timeout, context, fault)
        return Answer(self._operation(call, key))

    def _context(self, source: dict[str, Any]) -> tuple[bytes, str]:
        """The context's bytes, and what is wrong with it (said when the build runs, as Google does)."""
        try:
            generation = int(source["generation"]) if source.get("generation") else None
            stored = self.store.get(str(source.get("bucket")), str(source.get("object")), generation=generation)
        except ApiError as error:
            return b"", f"failed to fetch source: {error.message}"
        data = b"".join(stored.pieces())
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                names = {name.removeprefix("./") for name in archive.getnames()}
        except tarfile.TarError as error:
            return b"", f"source is not a gzipped tar archive: {error}"
        return data, "" if "Dockerfile" in names else "unable to evaluate symlinks in Dockerfile path: no such file or directory"

    def status(self, build: _Build) -> str:
        """QUEUED, WORKING, then one of the ends; the image is there from SUCCESS on."""
        age = (self.now() - build.created).total_seconds()
        if build.cancelled:
            return "CANCELLED"
        if age < build.seconds / 10:
            return "QUEUED"
        if build.fault or self.scene.builds_fail:
            return "FAILURE"
        if age >= build.timeout and build.timeout < build.seconds:
            return "TIMEOUT"
        if age < build.seconds:
            return "WORKING"
        if not build.images:
            self._publish(build)
        return "SUCCESS"

    def _publish(self, build: _Build) -> None:
        config = {"digest": "sha256:" + "0" * 64, "size": 0, "mediaType": "application/vnd.docker.container.image.v1+json"}
        for name in build.body.get("images", []):
            found = _IMAGE.fullmatch(name)
            if found is None:
                continue
            layer = {"digest": f"sha256:{hashlib.sha256(build.context).hexdigest()}", "size": len(build.context)}
            data = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}, sort_keys=True).encode()
            made = self.registry.add(found["image"], found["tag"], data)
            build.images.append({"name": name, "digest": made.digest})

    def get(self, call: Call) -> Answer:
        return Answer(self._shown(call, self._key(call)))

    def cancel(self, call: Call) -> Answer:
        key = self._key(call)
        self.builds[key].cancelled = True
        return Answer(self._shown(call, key))

    def operation(self, call: Call) -> Answer:
        return Answer(self._operation(call, self._key(call)))

    def _key(self, call: Call) -> str:
        key = call.parts["build"]
        if key not in self.builds:
            raise not_found("build", key)
        return key

    def _shown(self, call: Call, key: str) -> dict[str, Any]:
        build = self.builds[key]
        status = self.status(build)
        shown = {
            **build.body,
            "id": key,
            "projectId": call.parts["project"],
            "status": status,
            "createTime": build.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "logUrl": f"https://console.cloud.google.com/cloud-build/builds/{key}?project={self.scene.number}",
        }
        if status == "SUCCESS":
            shown["results"] = {"images": build.images}
            shown["finishTime"] = (build.created + timedelta(seconds=build.seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if status == "FAILURE":
            shown["failureInfo"] = {"type": "USER_BUILD_STEP", "detail": build.fault or "Build step failure: build step 0 failed"}
            shown["statusDetail"] = shown["failureInfo"]["detail"]
        return shown

    def _operation(self, call: Call, key: str) -> dict[str, Any]:
        shown = self._shown(call, key)
        kind = "type.googleapis.com/google.devtools.cloudbuild.v1"
        done = shown["status"] not in ("QUEUED", "WORKING")
        operation: dict[str, Any] = {
            "name": f"operations/build/{call.parts['project']}/{key}",
            "metadata": {"@type": f"{kind}.BuildOperationMetadata", "build": shown},
            "done": done,
        }
        if done and shown["status"] == "SUCCESS":
            operation["response"] = {"@type": f"{kind}.Build", **shown}
        elif done:
            operation["error"] = {"code": 2, "message": str(shown.get("statusDetail") or f"Build {shown['status'].lower()}")}
        return operation
