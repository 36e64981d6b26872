"""What it costs that a spot machine may be taken away: interruptions, lost work, checkpoints. Pure."""

from __future__ import annotations

import math

from cloudtune import cost

# Interruptions per hour of a spot machine: neither cloud promises a number. 0.15 is what a public simulation of SageMaker
# training used (agentcore-public-stack pull request 1025, September 2026), and it is on the careful side.
SPOT_INTERRUPTIONS_PER_HOUR = 0.15
CHECKPOINT_BYTES_PER_SECOND = 0.5e9
STEADY_CHECKPOINT_SECONDS = 1800.0


def interruptions_per_hour(purchase: str) -> float:
    """How often a machine bought like this is taken away."""
    return SPOT_INTERRUPTIONS_PER_HOUR if purchase == "spot" else 0.0


def checkpoint_seconds(purchase: str, checkpoint_bytes: float) -> float:
    """The interval between checkpoints that loses least: sqrt(2 x time to save x time between interruptions), 5-60 minutes."""
    if purchase != "spot":
        return STEADY_CHECKPOINT_SECONDS
    saving = 5 + checkpoint_bytes / CHECKPOINT_BYTES_PER_SECOND
    return min(3600.0, max(300.0, math.sqrt(2 * saving * 3600 / SPOT_INTERRUPTIONS_PER_HOUR)))


def risk_usd(usd: float, hours: float, *, purchase: str, interval_seconds: float, restart_seconds: float) -> float:
    """The price with interruptions weighed in: each repeats half a checkpoint interval and the billed start-up."""
    rate = interruptions_per_hour(purchase)
    if not rate:
        return usd
    lost = (interval_seconds / 2 + restart_seconds) / 3600
    return cost.interruption_weighted_usd(usd, hours, interruptions_per_hour=rate, lost_hours_each=lost)
