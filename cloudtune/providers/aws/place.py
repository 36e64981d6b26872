"""AWS wired up as a Place. Connecting calls nobody: the first question logs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.providers.aws.client import REGION, Regions
from cloudtune.providers.aws.jobs import SETTLE_SECONDS, AwsJobs
from cloudtune.providers.aws.logs import AwsLogs
from cloudtune.providers.aws.request import build_request
from cloudtune.providers.base import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudtune.clock import Clock
    from cloudtune.errors import CloudtuneError
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.aws.preflight import AwsPreflight
    from cloudtune.providers.base import Finding, Request, Staged
    from cloudtune.providers.registry import PlaceSettings
    from cloudtune.rendering.bundle import Bundle


def connect(settings: PlaceSettings, clock: Clock) -> Place:
    """The place ``aws``. Raises UsageError for a region that is none, and ModuleNotFoundError without boto3."""
    import importlib.util

    if importlib.util.find_spec("boto3") is None:
        raise ModuleNotFoundError("no boto3", name="boto3")
    region = getattr(settings, "aws_region", None)
    if region and not REGION.fullmatch(region):
        raise UsageError(f"aws_region is {region!r}, which is no region", code="bad-setting", hint="it looks like us-east-1")
    regions = Regions(settings.home, getattr(settings, "aws_profile", None), region)
    logs = AwsLogs(regions, clock)
    jobs = AwsJobs(regions, clock, logs)
    checks = _Checks(regions, settings)

    def build(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
        return build_request(plan, staged, launch_id, settings)  # type: ignore[arg-type]

    return Place(
        name="aws",
        build_request=build,
        jobs=jobs,
        stager=_Stager(regions, settings, clock),
        logs=logs,
        preflight=checks,
        inventory=jobs,
        examiner=checks,
        billing=jobs,
        settle_seconds=SETTLE_SECONDS,
    )


class _Stager:
    """The stager, which needs rendering: ps and logs connect to this place and must not load it."""

    def __init__(self, regions: Regions, settings: object, clock: Clock) -> None:
        self._arguments = (regions, settings, clock)

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        from cloudtune.providers.aws.ownimages import OwnImages
        from cloudtune.providers.aws.staging import AwsStager

        regions, settings, clock = self._arguments
        return AwsStager(regions, settings, OwnImages(regions, settings, clock)).stage(bundle, plan, progress)  # type: ignore[arg-type]


class _Checks:
    """The same for the checks before a launch, and those of doctor."""

    def __init__(self, regions: Regions, settings: object) -> None:
        self._arguments = (regions, settings)

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        return self._preflight().check(plan)

    def examine(self) -> Sequence[Finding]:
        return self._preflight().examine()

    def _preflight(self) -> AwsPreflight:
        from cloudtune.providers.aws.preflight import AwsPreflight

        regions, settings = self._arguments
        return AwsPreflight(regions, settings)  # type: ignore[arg-type]
