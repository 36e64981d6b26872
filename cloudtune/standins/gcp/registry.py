"""Artifact Registry: its REST API, and the registry protocol that engines push with and that says a tag's digest.

Keeps manifests and layers in a folder. An image's name begins with ``PROJECT/REPOSITORY/``, as in Artifact Registry.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtune.standins.gcp.answers import ApiError, denied, not_found
from cloudtune.standins.gcp.scene import Scene
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_REPOSITORY = "/v1/projects/{project}/locations/{region}/repositories"


@dataclass(frozen=True)
class Manifest:
    """One image by digest."""

    image: str
    digest: str
    kind: str
    data: bytes


@dataclass
class Registry:
    """Images of the project. ``images``: (image, digest) → manifest; ``tags``: (image, tag) → digest."""

    scene: Scene
    folder: Path
    images: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def routes(self) -> list[Route]:
        name = "/v2/{image*}"
        return [
            route("GET", "/v2", "registry.ping", self.ping, docker_problem),
            route("POST", f"{name}/blobs/uploads", "registry.push", self.begin, docker_problem),
            route("PATCH", f"{name}/blobs/uploads/{{key}}", "registry.push", self.receive, docker_problem),
            route("PUT", f"{name}/blobs/uploads/{{key}}", "registry.push", self.finish, docker_problem),
            route("HEAD", f"{name}/blobs/{{digest*}}", "registry.blob", self.blob, docker_problem),
            route("GET", f"{name}/blobs/{{digest*}}", "registry.blob", self.blob, docker_problem),
            route("PUT", f"{name}/manifests/{{reference*}}", "registry.push", self.take_manifest, docker_problem),
            route("HEAD", f"{name}/manifests/{{reference*}}", "registry.manifest", self.manifest, docker_problem),
            route("GET", f"{name}/manifests/{{reference*}}", "registry.manifest", self.manifest, docker_problem),
            route("GET", f"{_REPOSITORY}/{{repository}}", "repositories.get", self.repository),
            route("POST", _REPOSITORY, "repositories.create", self.make_repository),
            route("GET", f"{_REPOSITORY}/{{repository}}/packages/{{package}}/tags/{{tag}}", "tags.get", self.tag),
            route("GET", f"{_REPOSITORY}/{{repository}}/dockerImages", "dockerImages.list", self.docker_images),
            route("GET", f"{_REPOSITORY}/{{repository}}/dockerImages/{{image*}}", "dockerImages.get", self.docker_image),
        ]

    def add(self, image: str, tag: str, data: bytes, kind: str = MANIFEST) -> Manifest:
        """An image that is there from now on; the digest is its manifest's."""
        made = Manifest(image, f"sha256:{hashlib.sha256(data).hexdigest()}", kind, data)
        with self._lock:
            self.images[image, made.digest] = made
            if tag:
                self.tags[image, tag] = made.digest
        return made

    def find(self, image: str, reference: str) -> Manifest:
        """By tag or digest. Raises ApiError."""
        digest = reference if reference.startswith("sha256:") else self.tags.get((image, reference), "")
        found = self.images.get((image, digest))
        if found is None:
            raise ApiError("NOT_FOUND", f"Failed to fetch {reference!r}", "MANIFEST_UNKNOWN")
        return found

    def require(self, image: str) -> None:
        """The repository of an image must be there. Raises ApiError."""
        project, _, rest = image.partition("/")
        repository = rest.partition("/")[0]
        if project != self.scene.project or repository not in {self.scene.repository, *self.made}:
            raise ApiError("NOT_FOUND", f'Repository "{repository}" not found', "NAME_UNKNOWN")

    def ping(self, call: Call) -> Answer:  # noqa: ARG002 - every route gets the call
        return Answer({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    def begin(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.uploadArtifacts")
        self.require(call.parts["image"])
        key = secrets.token_hex(16)
        self._upload(key).parent.mkdir(parents=True, exist_ok=True)
        self._upload(key).touch()
        return self._accepted(call, key)

    def receive(self, call: Call) -> Answer:
        with self._upload(call.parts["key"]).open("ab") as stream:
            stream.writelines(call.pieces())
        return self._accepted(call, call.parts["key"])

    def _accepted(self, call: Call, key: str) -> Answer:
        size = self._upload(key).stat().st_size
        place = f"/v2/{call.parts['image']}/blobs/uploads/{key}"
        return Answer(b"", 202, {"Location": place, "Docker-Upload-UUID": key, "Range": f"0-{max(0, size - 1)}"})

    def finish(self, call: Call) -> Answer:
        """The last bytes of a layer, whose digest must be the one that was told."""
        self.receive(call)
        upload, told = self._upload(call.parts["key"]), call.query.get("digest", "")
        with upload.open("rb") as stream:
            found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        if found != told:
            upload.unlink()
            raise ApiError("INVALID_ARGUMENT", "provided digest did not match uploaded content", "DIGEST_INVALID")
        upload.replace(self._layer(told))
        return Answer(b"", 201, {"Location": f"/v2/{call.parts['image']}/blobs/{told}", "Docker-Content-Digest": told})

    def blob(self, call: Call) -> Answer:
        path = self._layer(call.parts["digest"])
        if not path.exists():
            raise ApiError("NOT_FOUND", "blob unknown to registry", "BLOB_UNKNOWN")
        headers = {"Docker-Content-Digest": call.parts["digest"], "Content-Type": "application/octet-stream"}
        return Answer([path.read_bytes()], 200, headers, path.stat().st_size)

    def take_manifest(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.uploadArtifacts")
        image, reference, data = call.parts["image"], call.parts["reference"], call.read()
        self.require(image)
        body = json.loads(data)
        needed = [one["digest"] for one in [*body.get("layers", []), *([body["config"]] if "config" in body else [])]]
        if not all(self._layer(digest).exists() for digest in needed):
            raise ApiError("INVALID_ARGUMENT", "blob unknown to registry", "MANIFEST_BLOB_UNKNOWN")
        made = self.add(image, "" if reference.startswith("sha256:") else reference, data, call.headers.get("content-type", MANIFEST))
        return Answer(b"", 201, {"Location": f"/v2/{image}/manifests/{made.digest}", "Docker-Content-Digest": made.digest})

    def manifest(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.downloadArtifacts")
        self.require(call.parts["image"])
        found = self.find(call.parts["image"], call.parts["reference"])
        return Answer(found.data, headers={"Content-Type": found.kind, "Docker-Content-Digest": found.digest})

    def repository(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.get")
        name = call.parts["repository"]
        if name not in {self.scene.repository, *self.made}:
            raise not_found("Repository", call.path.removeprefix("/v1/"))
        return Answer({"name": call.path.removeprefix("/v1/"), "format": "DOCKER", "mode": "STANDARD_REPOSITORY"})

    def make_repository(self, call: Call) -> Answer:
        """An operation that is done at once."""
        self._may("artifactregistry.repositories.create")
        name = call.query.get("repositoryId", "")
        if name in {self.scene.repository, *self.made}:
            raise ApiError("ALREADY_EXISTS", "the repository already exists")
        self.made.add(name)
        parent = call.path.removeprefix("/v1/").removesuffix("/repositories")
        response = {"name": f"{parent}/repositories/{name}", "format": call.json().get("format", "DOCKER")}
        return Answer({"name": f"{parent}/operations/{secrets.token_hex(8)}", "done": True, "response": response})

    def tag(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.get")
        parts = call.parts
        image = f"{parts['project']}/{parts['repository']}/{parts['package']}"
        digest = self.tags.get((image, parts["tag"]))
        if digest is None:
            raise not_found("Tag", call.path.removeprefix("/v1/"))
        package = call.path.removeprefix("/v1/").partition("/tags/")[0]
        return Answer({"name": call.path.removeprefix("/v1/"), "version": f"{package}/versions/{digest}"})

    def docker_images(self, call: Call) -> Answer:
        self._may("artifactregistry.repositories.get")
        self.repository(call)
        home = f"{call.parts['project']}/{call.parts['repository']}/"
        found = [self._shown(call, one) for (image, _), one in sorted(self.images.items()) if image.startswith(home)]
        return Answer({"dockerImages": found} if found else {})

    def docker_image(self, call: Call) -> Answer:
        self._may("artifactregistry.dockerimages.get")
        name, _, digest = call.parts["image"].partition("@")
        found = self.images.get((f"{call.parts['project']}/{call.parts['repository']}/{name}", digest))
        if found is None:
            raise not_found("DockerImage", call.path.removeprefix("/v1/"))
        return Answer(self._shown(call, found))

    def _shown(self, call: Call, found: Manifest) -> dict[str, Any]:
        region = call.parts["region"]
        tags = [tag for (image, tag), digest in sorted(self.tags.items()) if (image, digest) == (found.image, found.digest)]
        name = found.image.rpartition("/")[2]
        home = f"projects/{call.parts['project']}/locations/{region}/repositories/{call.parts['repository']}"
        return {
            "name": f"{home}/dockerImages/{name}@{found.digest}",
            "uri": f"{region}-docker.pkg.dev/{found.image}@{found.digest}",
            "tags": tags,
            "mediaType": found.kind,
        }

    def _may(self, permission: str) -> None:
        if permission in self.scene.denied:
            place = f"projects/{self.scene.project}/locations/{self.scene.region}/repositories/{self.scene.repository}"
            raise denied(permission, place, "artifactregistry.googleapis.com")

    def _upload(self, key: str) -> Path:
        if not key.isalnum():
            raise ApiError("NOT_FOUND", "blob upload unknown to registry", "BLOB_UPLOAD_UNKNOWN")
        return self.folder / "uploads" / key

    def _layer(self, digest: str) -> Path:
        letters = digest.removeprefix("sha256:")
        if not letters.isalnum():
            raise ApiError("INVALID_ARGUMENT", "provided digest is malformed", "DIGEST_INVALID")
        return self.folder / letters


def docker_problem(error: ApiError) -> Answer:
    """The registry protocol's own shape of an error."""
    code = "DENIED" if error.code == "PERMISSION_DENIED" else error.reason or error.code
    return Answer({"errors": [{"code": code, "message": error.message}]}, error.http)
