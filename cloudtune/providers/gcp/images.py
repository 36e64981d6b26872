"""The image of a job in Artifact Registry, run by digest only. There is no stock image: Google's newest with torch is 2.4 and unsupported.

    gcp_image = remote   built by Cloud Build from the same context (the default: no engine is needed, the layers stay in the cloud)
    gcp_image = engine   built by this machine's engine and pushed

The tag holds the digest of the build context: what is in the repository under its tag is never built again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import NotFoundError, StagingError, StoreError, UnavailableError, UsageError
from cloudtune.providers.gcp.request import PREFIX, account, repository
from cloudtune.rendering.image import ensure_image, image_name, target_of
from cloudtune.wire.gcs import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudtune.clock import Clock
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.gcp.request import GcpSettings
    from cloudtune.providers.gcp.services import Services
    from cloudtune.rendering.bundle import Bundle
    from cloudtune.rendering.image import ImageBuilder

WAYS: Final = ("remote", "engine")
BUILD_SECONDS: Final = 3600
_POLL_SECONDS: Final = 5.0
_ENDS: Final = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})


class GcpImages:
    """Makes sure of a job's image in the way that the settings name."""

    def __init__(self, settings: GcpSettings, clock: Clock, services: Services) -> None:
        self._settings = settings
        self._clock = clock
        self._services = services

    def make(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> str:
        """The image by digest. Raises UsageError for a setting that is no way, StagingError when it cannot be built or pushed."""
        way = getattr(self._settings, "gcp_image", None) or "remote"
        if way not in WAYS:
            raise UsageError(f"gcp_image is {way!r}", code="bad-setting", hint=f"write one of: {', '.join(WAYS)}")
        project, bucket, region = account(self._settings, plan.chosen.region)
        name = image_name(bundle.image, target_of(plan), repository(self._settings, project, region))
        return ensure_image(self._builder(way, project, bucket), name, bundle.image, progress)

    def _builder(self, way: str, project: str, bucket: str) -> ImageBuilder:
        if way == "engine":
            from cloudtune.engine.probe import usable_engine
            from cloudtune.engine.push import Credentials, PushingBuilder

            token = self._services.login.token
            return PushingBuilder(usable_engine(os.environ), lambda: Credentials("oauth2accesstoken", token()), self._clock)
        return RemoteBuilder(self._services, Bucket(bucket, self._services.login, sleep=self._clock.sleep), project, self._clock)


def digest_of(services: Services, name: str) -> str | None:
    """``repository/name@sha256:...`` of what Artifact Registry has under ``name``, None when it has none."""
    address, _, tag = name.rpartition(":")
    host, project, folder, package = address.split("/", 3)
    region = host.removesuffix("-docker.pkg.dev")
    path = f"/v1/projects/{project}/locations/{region}/repositories/{folder}/packages/{package.replace('/', '%2F')}/tags/{tag}"
    try:
        version = str(services.get("artifactregistry", path)["version"])
    except NotFoundError:
        return None
    return f"{address}@{version.rpartition('/')[2]}"


class RemoteBuilder:
    """An ``ImageBuilder`` over Cloud Build: the context goes to the bucket, the image comes into Artifact Registry."""

    def __init__(self, services: Services, bucket: Bucket, project: str, clock: Clock) -> None:
        self._services = services
        self._bucket = bucket
        self._project = project
        self._clock = clock

    def find(self, name: str) -> str | None:
        """The image by digest, None when the registry has none under this name."""
        return digest_of(self._services, name)

    def build(self, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str:
        """Build and return the image by digest. Raises StagingError with the build's log address when it fails."""
        archive = packed(context)
        place = f"{PREFIX}/contexts/{hashlib.sha256(archive).hexdigest()}.tar.gz"
        generation = self._upload(place, archive)
        body = build_body(self._bucket.name, place, generation, name)
        made = self._services.post("cloudbuild", f"/v1/projects/{self._project}/locations/global/builds", body, again=False)
        build = self._wait(str(made["metadata"]["build"]["id"]), progress)
        if build["status"] != "SUCCESS":
            why = build.get("failureInfo", {}).get("detail") or build.get("statusDetail") or build["status"]
            raise StagingError(
                f"Cloud Build could not make the image: {why}",
                where=str(build.get("logUrl", "")),
                code="remote-build",
                hint="read the build's log; or build here with CLOUDTUNE_GCP_IMAGE=engine",
            )
        digests = [image["digest"] for image in build.get("results", {}).get("images", ()) if image.get("name") == name]
        if not digests:
            raise StagingError("Cloud Build ended well and named no image", where=str(build.get("logUrl", "")), hint="launch again")
        return f"{name.rpartition(':')[0]}@{digests[0]}"

    def _upload(self, place: str, archive: bytes) -> int:
        try:
            return self._bucket.write(place, archive, generation=0)
        except StoreError as error:
            if error.code != "store-precondition":
                raise
        there = self._bucket.head(place)
        return there.generation if there else self._bucket.write(place, archive)

    def _wait(self, key: str, progress: Callable[[str], None]) -> dict[str, Any]:
        """The build when it has ended; ``progress`` hears each new status."""
        deadline, last = self._clock.monotonic() + BUILD_SECONDS + 600, ""
        while self._clock.monotonic() < deadline:
            build = self._services.get("cloudbuild", f"/v1/projects/{self._project}/locations/global/builds/{key}")
            status = str(build.get("status"))
            if status != last:
                progress(f"Cloud Build {key}: {status.lower()}")
            if status in _ENDS:
                return build
            last = status
            self._clock.sleep(_POLL_SECONDS)
        raise UnavailableError(f"Cloud Build {key} does not end", where=key, hint="look at it in the console; launch again later")


def build_body(bucket: str, place: str, generation: int, name: str) -> dict[str, Any]:
    """The build: one step. The image with CUDA has 6 GB and takes longer than the service's default of ten minutes."""
    return {
        "source": {"storageSource": {"bucket": bucket, "object": place, "generation": str(generation)}},
        "steps": [{"name": "gcr.io/cloud-builders/docker", "args": ["build", "-t", name, "."]}],
        "images": [name],
        "timeout": f"{BUILD_SECONDS}s",
        "options": {"machineType": "E2_HIGHCPU_8", "diskSizeGb": "100", "logging": "CLOUD_LOGGING_ONLY"},
        "tags": ["cloudtune"],
    }


def packed(context: Mapping[str, bytes]) -> bytes:
    """A gzipped tar of the context: equal contexts give equal bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(context):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(context[path]), 0o644
            archive.addfile(entry, io.BytesIO(context[path]))
    squeezed = io.BytesIO()
    with gzip.GzipFile(fileobj=squeezed, mode="wb", mtime=0) as stream:
        stream.write(plain.getvalue())
    return squeezed.getvalue()
