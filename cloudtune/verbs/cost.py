"""The verb ``cost``: what the jobs of the ledger cost so far, by job, recipe or month.

    runs, or its provider gives no bill      hours x the price of the launch; a range where the price is one (spot)
    has ended                                the provider's own count at the full price, once it is final kept in the ledger

The price is the one of the launch: tables that change later move nothing. Jobs on this machine cost nothing and still
show their hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cloudtune.cost import billed_usd, range_usd, run_usd
from cloudtune.errors import CloudtuneError, NotFoundError
from cloudtune.verbs.polling import refresh
from cloudtune.verbs.reconcile import reconcile

if TYPE_CHECKING:
    from cloudtune.job import JobView
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

By = Literal["job", "recipe", "month"]
MOST_BILLS = 50
"""Jobs that are asked about in one go; the rest the next time. A final bill is never asked for again."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """``hours`` are wall hours of the run, ``usd`` of all its machines; None when no job of the row has a known price.

    ``usd_low`` and ``usd_high`` differ from ``usd`` while the price of a part of it shows only later. ``final``: all is billed.
    ``at_most``: ``usd`` is an upper bound, because the provider does not tell how long a spot job was without a machine.
    """

    name: str
    jobs: int
    hours: float
    usd: float | None
    usd_low: float | None = None
    usd_high: float | None = None
    final: bool = False
    at_most: bool = False


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
    found = refresh(session.ledger.views(), session)
    problems = [*settled.problems, *found.problems, *_ask_bills(found.views, session)]
    prices, bills = session.ledger.prices(), session.ledger.bills()
    single = [(view, _row(view, *prices.get(view.id, (None, 1)), bills.get(view.id), session)) for view in found.views]
    name = _NAMES[by]
    groups: dict[str, list[CostRow]] = {}
    for view, row in single:
        groups.setdefault(name(view), []).append(row)
    rows = tuple(_sum(label, members) for label, members in groups.items())
    return Costs(by, rows, _sum("total", [row for _, row in single]), tuple(problems))


_NAMES: dict[By, Callable[[JobView], str]] = {
    "job": lambda view: view.id,
    "recipe": lambda view: view.recipe,
    "month": lambda view: view.created.strftime("%Y-%m") if view.created else "unknown",
}


def _ask_bills(views: Iterable[JobView], session: Session) -> list[CloudtuneError]:
    """Ask for the bills of jobs that have ended and have no final one; each provider's first error ends its questions."""
    known, silent = session.ledger.bills(), set()
    problems: list[CloudtuneError] = []
    open_ones = [view for view in views if view.ended and view.ref is not None and not known.get(view.id, {}).get("final")]
    for view in open_ones[-MOST_BILLS:]:
        if view.provider in silent:
            continue
        try:
            _ask_bill(view, session, known.get(view.id, {}))
        except CloudtuneError as error:
            silent.add(view.provider)
            problems.append(error)
    return problems


def _ask_bill(view: JobView, session: Session, known: Mapping[str, Any]) -> None:
    billing = session.place(view.provider).billing
    if billing is None or view.ref is None:
        return
    try:
        bill = billing.bill(view.ref)
    except NotFoundError:
        # Deleted at the provider: what the last reading said is all that there will be.
        session.ledger.append(view.id, "cost", {"billable_seconds": None, "final": True}, key="cost:final")
        return
    body = {
        "billable_seconds": bill.billable_seconds,
        "retained_seconds": bill.retained_seconds or 0.0,
        "instance": bill.instance,
        "final": bill.final,
    }
    if body != known:
        session.ledger.append(view.id, "cost", body)


def _row(view: JobView, usd_per_hour: float | None, nodes: int, bill: Mapping[str, Any] | None, session: Session) -> CostRow:
    hours = (view.billable_seconds or 0.0) / 3600
    if usd_per_hour is None:
        return CostRow(view.id, 1, hours, None, final=view.ended)
    plan = _plan(view, session)
    if bill is not None and bill.get("billable_seconds") is not None:
        rate = _full_rate(plan, str(bill.get("instance", "")), usd_per_hour)
        usd = billed_usd(bill["billable_seconds"], rate, nodes, retained_seconds=bill.get("retained_seconds") or 0.0)
        return CostRow(view.id, 1, hours, usd, usd, usd, final=bool(bill["final"]))
    usd = run_usd(hours, usd_per_hour, nodes)
    low, high = _range(plan, hours, nodes) or (usd, usd)
    return CostRow(view.id, 1, hours, usd, low, high, final=view.ended, at_most=_is_bound(plan, view, session))


def _plan(view: JobView, session: Session) -> Plan | None:
    """The plan where it matters: at a place that bills. Reading thousands of plans of this machine's jobs would take long."""
    from cloudtune.verbs.plans import load_plan

    try:
        place = session.place(view.provider)
    except CloudtuneError:  # its library is not installed any more
        return None
    return load_plan(view.id, session) if place.billing is not None or place.counts_gaps else None


def _is_bound(plan: Plan | None, view: JobView, session: Session) -> bool:
    """Whether the hours are an upper bound: a spot job's, where the provider's count holds its gaps."""
    return plan is not None and plan.chosen.purchase == "spot" and session.place(view.provider).counts_gaps


def _full_rate(plan: Plan | None, instance: str, usd_per_hour: float) -> float:
    """USD per hour of one machine without a discount, of the type that the provider took."""
    if plan is None:
        return usd_per_hour
    if instance and instance != plan.chosen.instance:
        for other in (*plan.fallbacks, *plan.candidates):
            if (other.instance, other.purchase) == (instance, "on_demand") and other.hours > 0:
                return other.usd / other.hours / other.layout.nodes
    return plan.chosen.usd_per_hour_high or plan.chosen.usd_per_hour


def _range(plan: Plan | None, hours: float, nodes: int) -> tuple[float, float] | None:
    """Least and most so far, where the hour's price is a range."""
    from cloudtune.offers.spot import LOW

    if plan is None or plan.chosen.usd_per_hour_high is None:
        return None
    return range_usd(hours, plan.chosen.usd_per_hour_high, nodes, low_share=LOW)


def _sum(name: str, rows: Iterable[CostRow]) -> CostRow:
    members = list(rows)
    known = [row for row in members if row.usd is not None]
    if not known:
        return CostRow(name, len(members), sum(row.hours for row in members), None, final=all(row.final for row in members))
    usd = round(sum(row.usd or 0.0 for row in known), 4)
    low = round(sum((row.usd if row.usd_low is None else row.usd_low) or 0.0 for row in known), 4)
    high = round(sum((row.usd if row.usd_high is None else row.usd_high) or 0.0 for row in known), 4)
    bound = any(row.at_most for row in members)
    return CostRow(name, len(members), sum(row.hours for row in members), usd, low, high, all(row.final for row in members), bound)
