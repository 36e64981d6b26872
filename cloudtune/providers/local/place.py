"""This machine wired up as a Place."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    return Place(
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
