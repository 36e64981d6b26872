"""Google Cloud wired up as a Place. Connecting calls nobody and imports nothing of Google's: the first question does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.providers.base import Place
from cloudtune.providers.gcp.jobs import SETTLE_SECONDS, GcpJobs
from cloudtune.providers.gcp.logs import GcpLogs
from cloudtune.providers.gcp.request import build_request
from cloudtune.providers.gcp.services import Services
from cloudtune.wire.google import Login

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudtune.clock import Clock
    from cloudtune.errors import CloudtuneError
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Finding, Request, Staged
    from cloudtune.providers.gcp.preflight import GcpPreflight
    from cloudtune.providers.registry import PlaceSettings
    from cloudtune.rendering.bundle import Bundle


def connect(settings: PlaceSettings, clock: Clock) -> Place:
    """The place ``gcp``. Raises UsageError for an endpoint that is none, and ModuleNotFoundError without Google's libraries."""
    import importlib.util

    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.cloud.aiplatform_v1") is None:
        raise ModuleNotFoundError("no google-cloud-aiplatform", name="google-cloud-aiplatform")
    endpoint = getattr(settings, "gcp_endpoint", None)
    if endpoint and not endpoint.startswith(("http://", "https://", "grpc://")):
        raise UsageError(f"gcp_endpoint is {endpoint!r}", code="bad-setting", hint="it looks like http://127.0.0.1:8080")
    login = Login(standin=bool(endpoint))
    services = Services(login, endpoint, clock.sleep)
    jobs = GcpJobs(settings, clock, login)  # type: ignore[arg-type]
    checks = _Checks(settings, services, clock)

    def build(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
        return build_request(plan, staged, launch_id, settings)  # type: ignore[arg-type]

    return Place(
        name="gcp",
        build_request=build,
        jobs=jobs,
        stager=_Stager(settings, services, clock),
        logs=GcpLogs(jobs, services, clock),
        preflight=checks,
        fence=jobs,
        inventory=jobs,
        examiner=checks,
        settle_seconds=SETTLE_SECONDS,
        counts_gaps=True,
    )


class _Stager:
    """The stager, which needs rendering: ps and logs connect to this place and must not load it."""

    def __init__(self, settings: PlaceSettings, services: Services, clock: Clock) -> None:
        self._settings = settings
        self._services = services
        self._clock = clock

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        from cloudtune.providers.gcp.images import GcpImages
        from cloudtune.providers.gcp.staging import GcpStager

        images = GcpImages(self._settings, self._clock, self._services)  # type: ignore[arg-type]
        notes = self._settings.home / "gcp" / "uploads"
        stager = GcpStager(self._settings, self._clock, self._services.login, notes, images)  # type: ignore[arg-type]
        return stager.stage(bundle, plan, progress)


class _Checks:
    """The same for the checks before a launch, and those of doctor."""

    def __init__(self, settings: PlaceSettings, services: Services, clock: Clock) -> None:
        self._arguments = (settings, services, clock)

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        return self._preflight().check(plan)

    def examine(self) -> Sequence[Finding]:
        return self._preflight().examine()

    def _preflight(self) -> GcpPreflight:
        from cloudtune.providers.gcp.preflight import GcpPreflight

        settings, services, clock = self._arguments
        return GcpPreflight(settings, services, clock)  # type: ignore[arg-type]
