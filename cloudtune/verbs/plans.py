"""The plan that a job was launched with, out of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session


def load_plan(launch_id: LaunchId, session: Session) -> Plan | None:
    """The plan; None for a job that the ledger does not know, or that was found and not launched from this ledger."""
    from cloudtune.planning.plan import Plan

    launch = session.ledger.launch(launch_id)
    return Plan.model_validate_json(launch.plan) if launch and launch.plan else None
