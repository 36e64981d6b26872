"""Plan + staged files + launch id → the request for a local job. Pure; holds names of secrets, never their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudtune.providers.base import Request

if TYPE_CHECKING:
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Staged

GRACE_SECONDS = 60
TRAINER_COMMAND = ("python", "-m", "cloudtune_trainer")
"""``python`` as the first word is the interpreter that runs cloudtune."""


def build_request(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
    """The request: command, inputs (path below the input folder → URI), limits in seconds, secrets by name and source."""
    body: dict[str, Any] = {
        "contract": 1,
        "recipe": plan.recipe.name,
        "command": list(TRAINER_COMMAND),
        "inputs": dict(sorted(staged.uris.items())),
        "bundle": staged.digest,
        "max_seconds": plan.max_seconds,
        "grace_seconds": GRACE_SECONDS,
        "secrets": dict(sorted(plan.recipe.secrets.items())),
    }
    return Request("local", launch_id, body)
