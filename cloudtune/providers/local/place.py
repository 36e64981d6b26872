"""This machine wired up as a Place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.providers.base import Place
from cloudtune.providers.local.jobs import LocalJobs
from cloudtune.providers.local.logs import LocalLogs
from cloudtune.providers.local.preflight import LocalPreflight
from cloudtune.providers.local.request import build_request
from cloudtune.providers.local.staging import LocalStager

if TYPE_CHECKING:
    from cloudtune.clock import Clock
    from cloudtune.providers.registry import PlaceSettings


def connect(settings: PlaceSettings, clock: Clock) -> Place:
    """The place ``local``; makes no folder before it is asked to do something."""
    jobs = LocalJobs(settings.home, settings.cache, clock)
    place = Place(
        name="local",
        build_request=build_request,
        jobs=jobs,
        stager=LocalStager(settings.home),
        logs=LocalLogs(settings.home),
        preflight=LocalPreflight(settings.home),
        fence=jobs,
        killer=jobs,
        inventory=jobs,
    )
    return _in_mode(place, settings)


def _in_mode(place: Place, settings: PlaceSettings) -> Place:
    """Processes, or containers when the settings say ``local_mode = "container"``. Raises UsageError for any other word."""
    mode = getattr(settings, "local_mode", None) or "process"
    if mode == "process":
        return place
    if mode != "container":
        raise UsageError(f"local_mode is {mode!r}", hint="write process or container")
    from cloudtune.providers.local.container import in_containers

    return in_containers(place, LocalPreflight(settings.home, needs_stack=False))
