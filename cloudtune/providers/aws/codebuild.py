"""Images built by CodeBuild, for machines without a container engine: the context goes up as a zip, the image stays in ECR.

    zip → s3://BUCKET/cloudtune/contexts/<digest>.zip → project ``cloudtune-images`` → build → image by digest

The project is made once. Its role is ``aws_build_role``, or the job's role when that trusts codebuild.amazonaws.com too.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import CloudtuneError, StagingError, UnavailableError
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.request import PREFIX
from cloudtune.wire.aws import facts_of
from cloudtune.wire.s3 import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudtune.clock import Clock
    from cloudtune.wire.aws import Login

PROJECT: Final = "cloudtune-images"
PAUSE_SECONDS: Final = 10.0
LONGEST_SECONDS: Final = 7_200.0
TAIL_LINES: Final = 15
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_BUILDSPEC: Final = """\
version: 0.2
phases:
  pre_build:
    commands:
      - aws ecr get-login-password --region $AWS_REGION | docker login --username AWS --password-stdin $REGISTRY
  build:
    commands:
      - docker build --platform linux/amd64 -t $IMAGE .
  post_build:
    commands:
      - '[ "$CODEBUILD_BUILD_SUCCEEDING" = 1 ] || exit 1'
      - docker push $IMAGE
"""


class CodeBuilder:
    """An ``ImageBuilder`` whose images are built in the cloud and lie in ECR."""

    def __init__(self, login: Login, bucket: str, role: str, clock: Clock, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._login = login
        self._bucket = Bucket(login, bucket)
        self._role = role
        self._clock = clock
        self._pause = pause_seconds

    def find(self, name: str) -> str | None:
        """``repository@sha256:...`` of the image, None when the repository has none under this tag."""
        address, _, tag = name.rpartition(":")
        repository = address.partition("/")[2]
        try:
            with asking(self._login, name):
                answer = self._login.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
        except CloudtuneError as error:
            if error.__cause__ is not None and facts_of(error.__cause__).code in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise
        details = answer.get("imageDetails") or []
        return f"{address}@{details[0]['imageDigest']}" if details else None

    def build(self, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str:
        """Build and push. Raises StagingError with the log's last lines when the build fails, UnavailableError when it never ends."""
        packed = zipped(context)
        digest = hashlib.sha256(packed).hexdigest()
        key = f"{PREFIX}/contexts/{digest}.zip"
        if self._bucket.head(key) is None:
            self._bucket.put(key, packed, sha256=digest, once=True)
        self._make_project()
        with asking(self._login, PROJECT):
            started = self._login.client("codebuild").start_build(
                projectName=PROJECT,
                sourceTypeOverride="S3",
                sourceLocationOverride=f"{self._bucket.name}/{key}",
                buildspecOverride=_BUILDSPEC,
                environmentVariablesOverride=[
                    {"name": "IMAGE", "value": name, "type": "PLAINTEXT"},
                    {"name": "REGISTRY", "value": name.partition("/")[0], "type": "PLAINTEXT"},
                ],
            )["build"]
        progress(f"CodeBuild builds it as {started['id']}")
        self._wait(started["id"], progress)
        found = self.find(name)
        if found is None:
            raise StagingError(
                "CodeBuild says that it pushed the image, and the repository has none",
                where=name,
                hint="look at the build's log in the console",
            )
        return found

    def _make_project(self) -> None:
        try:
            with asking(self._login, PROJECT):
                self._login.client("codebuild").create_project(
                    name=PROJECT,
                    source={"type": "S3", "location": f"{self._bucket.name}/{PREFIX}/contexts/", "buildspec": _BUILDSPEC},
                    artifacts={"type": "NO_ARTIFACTS"},
                    environment={
                        "type": "LINUX_CONTAINER",
                        "image": "aws/codebuild/standard:7.0",
                        "computeType": "BUILD_GENERAL1_MEDIUM",  # the small one's 64 GB disk is tight for CUDA images
                        "privilegedMode": True,
                    },
                    serviceRole=self._role,
                )
        except CloudtuneError as error:
            if error.__cause__ is None or facts_of(error.__cause__).code != "ResourceAlreadyExistsException":
                raise

    def _wait(self, build: str, progress: Callable[[str], None]) -> None:
        deadline, phase = self._clock.monotonic() + LONGEST_SECONDS, ""
        while self._clock.monotonic() < deadline:
            try:
                with asking(self._login, build):
                    found = self._login.client("codebuild").batch_get_builds(ids=[build])["builds"]
            except CloudtuneError as error:
                if not error.retryable:
                    raise
                found = []
            now: dict[str, Any] = found[0] if found else {}
            if now.get("currentPhase", phase) != phase:
                phase = now["currentPhase"]
                progress(f"CodeBuild: {phase.lower().replace('_', ' ')}")
            status = now.get("buildStatus", "IN_PROGRESS")
            if status == "SUCCEEDED":
                return
            if status != "IN_PROGRESS":
                raise self._failure(build, now, status)
            self._clock.sleep(self._pause)
        raise UnavailableError("the image's build does not end", where=build, hint="look at it in the CodeBuild console")

    def _failure(self, build: str, answer: dict[str, Any], status: str) -> StagingError:
        """The phase that failed, its own words, and the log's last lines."""
        failed = [phase for phase in answer.get("phases", ()) if phase.get("phaseStatus") not in (None, "SUCCEEDED")]
        said = "; ".join(context.get("message", "") for phase in failed for context in phase.get("contexts", ()))
        where = failed[0].get("phaseType", "").lower() if failed else status.lower()
        lines = "\n".join(self._log_tail(answer.get("logs", {})))
        return StagingError(
            f"the image's build failed in {where}: {said[:500]}\n{lines}".rstrip(),
            where=build,
            code="build-failed",
            hint="the same context builds here with: cloudtune render RECIPE && docker build build/NAME/image",
        )

    def _log_tail(self, logs: Mapping[str, Any]) -> list[str]:
        if not logs.get("groupName") or not logs.get("streamName"):
            return []
        try:
            with asking(self._login, "the build's log"):
                page = self._login.client("logs").get_log_events(
                    logGroupName=logs["groupName"], logStreamName=logs["streamName"], startFromHead=False, limit=TAIL_LINES
                )
        except CloudtuneError:
            return []
        return [str(event["message"]).rstrip() for event in page.get("events", ())]


def zipped(context: Mapping[str, bytes]) -> bytes:
    """The context as a zip: the same bytes for the same files, on any machine and day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(context):
            entry = zipfile.ZipInfo(path, _DATE)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, context[path])
    return buffer.getvalue()
