"""Images of our own for SageMaker, for whoever does not want Amazon's: pushed to ECR, and run by digest only.

    aws_image = stock    Amazon's image, our code as a channel: nothing is built (the default)
    aws_image = engine   built by this machine's engine and pushed
    aws_image = remote   built by CodeBuild from the same context

The tag holds the digest of the build context: what is in the repository under its tag is never built again.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Final, get_args

from cloudtune.errors import CloudtuneError, NotFoundError, UsageError
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.codebuild import CodeBuilder
from cloudtune.providers.aws.names import account_of, bucket_of, partition_of
from cloudtune.rendering.image import Abilities, Strategy, choose_image, ensure_image, image_name, target_of
from cloudtune.wire.aws import facts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.clock import Clock
    from cloudtune.engine.push import Credentials
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.aws.client import Regions
    from cloudtune.providers.aws.request import AwsSettings
    from cloudtune.rendering.bundle import Bundle
    from cloudtune.rendering.image import ImageBuilder
    from cloudtune.wire.aws import Login

_WAYS: Final = get_args(Strategy)


class OwnImages:
    """Makes sure of a job's image in the way that the settings name. ``builder`` replaces what builds, for tests."""

    def __init__(self, regions: Regions, settings: AwsSettings, clock: Clock) -> None:
        self._regions = regions
        self._settings = settings
        self._clock = clock

    def make(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> str | None:
        """The image by digest; None for Amazon's own. Raises UsageError for a setting that is no way, and what building raises."""
        way = getattr(self._settings, "aws_image", None) or "stock"
        if way not in _WAYS:
            raise UsageError(f"aws_image is {way!r}", code="bad-setting", hint=f"write one of: {', '.join(_WAYS)}")
        target = target_of(plan)
        if way == "stock":
            choose_image("aws", target, bundle.image, Abilities())  # says so when there is none of this kind
            return None
        role, region = self._settings.aws_role or "", plan.chosen.region
        login = self._regions.login(region)
        name = image_name(bundle.image, target, getattr(self._settings, "aws_repository", None) or registry_of(role, region))
        make_repository(login, name)
        return ensure_image(self._builder(way, login, role, region), name, bundle.image, progress)

    def _builder(self, way: str, login: Login, role: str, region: str) -> ImageBuilder:
        if way == "remote":
            bucket = bucket_of(self._settings.aws_bucket or "", role, region)
            return CodeBuilder(login, bucket, getattr(self._settings, "aws_build_role", None) or role, self._clock)
        from cloudtune.engine.probe import usable_engine
        from cloudtune.engine.push import PushingBuilder

        return PushingBuilder(usable_engine(os.environ), lambda: credentials(login), self._clock)


def registry_of(role: str, region: str) -> str:
    """The account's own registry."""
    suffix = "amazonaws.com.cn" if partition_of(role) == "aws-cn" else "amazonaws.com"
    return f"{account_of(role)}.dkr.ecr.{region}.{suffix}"


def repository_of(name: str) -> str:
    """``host/team/cloudtune-trainer:tag`` → ``team/cloudtune-trainer``."""
    return name.partition("/")[2].rpartition(":")[0]


def make_repository(login: Login, name: str) -> None:
    """The repository of an image, made when it is missing."""
    repository = repository_of(name)
    try:
        with asking(login, f"the ECR repository {repository}"):
            login.client("ecr").create_repository(repositoryName=repository, imageScanningConfiguration={"scanOnPush": False})
    except CloudtuneError as error:
        if error.__cause__ is None or facts_of(error.__cause__).code != "RepositoryAlreadyExistsException":
            raise


def credentials(login: Login) -> Credentials:
    """A user and password for the account's registry, good for twelve hours."""
    from cloudtune.engine.push import Credentials

    with asking(login, "the registry's password"):
        answer = login.client("ecr").get_authorization_token()
    data = answer.get("authorizationData") or []
    if not data:
        raise NotFoundError("ECR gave no password for the registry", hint="cloudtune doctor --provider aws")
    user, _, password = base64.b64decode(data[0]["authorizationToken"]).decode().partition(":")
    return Credentials(user, password)
