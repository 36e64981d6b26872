"""The only place where money is computed. Pure arithmetic in US dollars and seconds; knows no provider.

Everything billed by the hour, boot disk included, is inside ``usd_per_hour`` (per machine).
"""

from __future__ import annotations

import math


def run_usd(hours: float, usd_per_hour: float, nodes: int = 1) -> float:
    """Price of ``nodes`` machines for ``hours``, in USD, rounded to a hundredth of a cent."""
    return round(hours * usd_per_hour * nodes, 4)


def billed_usd(billable_seconds: float, usd_per_hour: float, nodes: int = 1, *, retained_seconds: float = 0.0) -> float:
    """What a provider bills: its own count of seconds at the full price, and machines that it kept after the end."""
    return run_usd((billable_seconds + retained_seconds) / 3600, usd_per_hour, nodes)


def range_usd(hours: float, usd_per_hour_high: float, nodes: int = 1, *, low_share: float) -> tuple[float, float]:
    """Least and most of a run whose price shows only on the bill: between ``low_share`` of the highest price and all of it."""
    high = run_usd(hours, usd_per_hour_high, nodes)
    return round(high * low_share, 4), high


def affordable_seconds(max_usd: float, usd_per_hour: float, nodes: int = 1) -> int | None:
    """Whole seconds that ``max_usd`` pays for, rounded down; None when the machine costs nothing."""
    rate = usd_per_hour * nodes
    return None if rate <= 0 else math.floor(max_usd / rate * 3600)


def time_limit_seconds(*, max_usd: float | None, max_hours: float | None, usd_per_hour: float, nodes: int = 1) -> int | None:
    """The server-side limit that keeps both the budget and ``max_hours``, in whole seconds; None when neither is set."""
    limits = []
    if max_usd is not None and (affordable := affordable_seconds(max_usd, usd_per_hour, nodes)) is not None:
        limits.append(affordable)
    if max_hours is not None:
        limits.append(math.floor(max_hours * 3600))
    return max(1, min(limits)) if limits else None


def interruption_weighted_usd(usd: float, hours: float, *, interruptions_per_hour: float, lost_hours_each: float) -> float:
    """Expected price when a machine may be taken away: every interruption repeats ``lost_hours_each`` hours of work.

    ``usd`` is the undisturbed price of ``hours``; the expectation is first order: rate x time x loss.
    """
    if hours <= 0:
        return usd
    return round(usd * (1 + interruptions_per_hour * lost_hours_each), 4)


def billed_seconds(seconds: float, *, step: int = 30) -> float:
    """What ``seconds`` of a machine are billed as where the meter counts in steps: rounded up, never below nothing."""
    return float(math.ceil(max(0.0, seconds) / step) * step)


def with_management_fee(list_usd: float, own_usd: float, *, fee: float = 0.15) -> float:
    """An hour on Vertex AI: the machine's own price, and a fee that is a share of the list price however it is bought.

    On demand the own price is the list price less what is not charged there (local disks).
    """
    return round(own_usd + fee * list_usd, 4)


def transfer_usd(transferred_bytes: float, *, usd_per_gb: float = 0.09) -> float:
    """What leaving a cloud costs at the list price of the first 10 TB a month (Amazon S3 in the US, of which 100 GB a month are free)."""
    return round(transferred_bytes / 1e9 * usd_per_gb, 4)
