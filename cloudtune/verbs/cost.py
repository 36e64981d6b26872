"""The verb ``cost``: what the jobs of the ledger cost so far, by job, recipe or month.

Hours are what the provider last said it bills, the price is the one of the launch: tables that change later move
nothing. Jobs on this machine cost nothing and still show their hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cloudtune.cost import run_usd
from cloudtune.verbs.polling import refresh
from cloudtune.verbs.reconcile import reconcile

if TYPE_CHECKING:
    from cloudtune.errors import CloudtuneError
    from cloudtune.job import JobView
    from cloudtune.session import Session

By = Literal["job", "recipe", "month"]


@dataclass(frozen=True, slots=True)
class CostRow:
    """``hours`` are wall hours of the run, ``usd`` of all its machines; None when no job of the row has a known price."""

    name: str
    jobs: int
    hours: float
    usd: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Rows in the order of their first launch, and their sum. ``problems``: providers that did not say how long their jobs run."""

    by: By
    rows: tuple[CostRow, ...]
    total: CostRow
    problems: tuple[CloudtuneError, ...] = ()


def cost(session: Session, *, by: By = "job") -> Costs:
    """The costs of every job in the ledger. Raises LedgerError."""
    settled = reconcile(session)
    prices = session.ledger.prices()
    found = refresh(session.ledger.views(), session)
    single = [(view, _row(view, *prices.get(view.id, (None, 1)))) for view in found.views]
    name = _NAMES[by]
    groups: dict[str, list[CostRow]] = {}
    for view, row in single:
        groups.setdefault(name(view), []).append(row)
    rows = tuple(_sum(label, members) for label, members in groups.items())
    return Costs(by, rows, _sum("total", [row for _, row in single]), (*settled.problems, *found.problems))


_NAMES: dict[By, Callable[[JobView], str]] = {
    "job": lambda view: view.id,
    "recipe": lambda view: view.recipe,
    "month": lambda view: view.created.strftime("%Y-%m") if view.created else "unknown",
}


def _row(view: JobView, usd_per_hour: float | None, nodes: int) -> CostRow:
    hours = (view.billable_seconds or 0.0) / 3600
    return CostRow(view.id, 1, hours, None if usd_per_hour is None else run_usd(hours, usd_per_hour, nodes))


def _sum(name: str, rows: Iterable[CostRow]) -> CostRow:
    members = list(rows)
    known = [row.usd for row in members if row.usd is not None]
    return CostRow(name, len(members), sum(row.hours for row in members), round(sum(known), 4) if known else None)
