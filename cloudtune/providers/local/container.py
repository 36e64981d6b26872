"""Jobs of this machine inside containers: the same JobService, with a container in the place of the trainer's process.

The supervisor, the job's folder, its log and its life are those of process mode; only the command differs. The stager
makes sure of the image, which is built by this machine's engine once for a release and found by its content ever after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloudtune.providers.base import Request, Staged
from cloudtune.providers.local.request import build_request
from cloudtune.rendering.contract import needs_network
from cloudtune.rendering.image import choose_image, ensure_image, target_of

if TYPE_CHECKING:
    from cloudtune.errors import CloudtuneError
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Place, Preflight, Stager
    from cloudtune.rendering.bundle import Bundle

IMAGE = "image"


@dataclass(frozen=True)
class ContainerStager:
    """Stages files as process mode does, and the image through the engine."""

    files: Stager

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        """Raises EngineError without a usable engine, BuildFailed with the failing step's last lines."""
        from cloudtune.engine.builder import EngineBuilder
        from cloudtune.engine.probe import usable_engine
        from cloudtune.rendering.image import Abilities

        staged = self.files.stage(bundle, plan, progress)
        connection = usable_engine(os.environ)
        try:
            choice = choose_image("local", target_of(plan), bundle.image, Abilities(engine=True))
            image = ensure_image(EngineBuilder(connection), choice.name, bundle.image, progress)
            user = None if os.getuid() == 0 or connection.rootless else f"{os.getuid()}:{os.getgid()}"
            return replace(staged, uris={**staged.uris, IMAGE: image, "engine": connection.url, "user": user or ""})
        finally:
            connection.close()


@dataclass(frozen=True)
class ContainerPreflight:
    """Process mode's checks, without the training stack, which is in the image; and the engine."""

    files: Preflight

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        """Every problem found; empty when the job may start."""
        from cloudtune.engine.client import EngineError
        from cloudtune.engine.probe import usable_engine

        problems = list(self.files.check(plan))
        try:
            usable_engine(os.environ).close()
        except EngineError as error:
            problems.append(error)
        return problems


def build_container_request(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
    """Process mode's request with the container's foreground program as command; secrets by name only."""
    uris = dict(staged.uris)
    image, engine, user = uris.pop(IMAGE), uris.pop("engine"), uris.pop("user")
    request = build_request(plan, replace(staged, uris=uris), launch_id)
    command = ["python", "-m", "cloudtune.engine.foreground", "--engine", engine, "--image", image]
    command += ["--network", "open" if needs_network(plan.recipe, "local") else "none"]
    command += ["--user", user] if user else []
    command += ["--gpus"] if plan.layout.gpus else []
    command += [word for name in sorted(plan.recipe.secrets) for word in ("--secret", name)]
    return Request(request.provider, launch_id, {**request.body, "command": command})


def in_containers(place: Place, preflight: Preflight) -> Place:
    """The place with its jobs in containers. ``preflight``: the checks of its files, without the training stack."""
    return replace(
        place, build_request=build_container_request, stager=ContainerStager(place.stager), preflight=ContainerPreflight(preflight)
    )
