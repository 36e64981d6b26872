"""Jobs as lines of text: the list of ``ps`` and the account of ``status``. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cloudtune.show.text import Column, Page, Row, Style, near, pairs, plain, table
from cloudtune.units import duration, usd

if TYPE_CHECKING:
    from cloudtune.job import JobView
    from cloudtune.verbs.cost import CostRow, Costs
    from cloudtune.verbs.reconcile import Reconciled

STATE_STYLES: dict[str, Style] = {
    "running": "green",
    "uploading": "green",
    "succeeded": "green",
    "collected": "green",
    "failed": "red",
    "lost": "red",
    "stopped": "yellow",
    "stopping": "yellow",
    "interrupted": "yellow",
    "unknown": "yellow",
}


def job_table(jobs: Sequence[JobView], page: Page, now: datetime, here: str = "") -> list[str]:
    """``ps``: one line per job. ``here``: the folder that paths are shown from."""
    if not jobs:
        return ["no jobs yet; start one with: cloudtune launch RECIPE"]
    columns = [Column("id"), Column("state"), Column("provider"), Column("progress", flexible=True), Column("started")]
    rows = [
        Row([job.id, str(job.state), job.provider, progress_words(job, here), ago(job.created, now)], STATE_STYLES.get(job.state))
        for job in jobs
    ]
    return table(page, columns, rows, indent=0)


def progress_words(job: JobView, here: str = "") -> str:
    """How far the job is, or why it ended."""
    if job.state.terminal:
        if job.state in ("failed", "stopped"):
            return job.stop_reason or job.message.partition("\n")[0]
        return near(job.collected_to or "", here)
    if job.progress is None:
        return job.message.partition("\n")[0]
    parts = [job.progress.phase]
    if job.progress.step is not None and job.progress.total_steps:
        parts.append(f"step {job.progress.step}/{job.progress.total_steps}")
    if job.progress.eta_seconds is not None:
        parts.append(f"{duration(job.progress.eta_seconds)} left")
    return ", ".join(parts)


def ago(at: datetime | None, now: datetime) -> str:
    """How long ago ``at`` was, in one unit; a clock that went back gives "just now"."""
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {word} ago"
    return f"{int(seconds)} s ago" if seconds >= 1 else "just now"


def job_lines(job: JobView, page: Page, now: datetime) -> list[str]:
    """``status``: everything that is known of one job."""
    progress = job.progress
    entries = [
        ("state", page.paint(str(job.state), STATE_STYLES.get(job.state))),
        ("progress", "" if job.state.terminal else progress_words(job)),
        ("loss", _loss_words(job)),
        ("speed", f"{progress.tokens_per_second:,.0f} tokens/s" if progress and progress.tokens_per_second else ""),
        ("recipe", job.recipe),
        ("address", str(job.ref) if job.ref else ""),
        ("started", f"{job.created:%Y-%m-%d %H:%M:%S} UTC, {ago(job.created, now)}" if job.created else ""),
        ("message", plain((job.stop_reason or job.message).partition("\n")[0])),
        ("exit code", str(job.exit_code) if job.exit_code not in (None, 0) else ""),
        ("results", job.collected_to or job.outputs or ""),
    ]
    return [page.paint(job.id, "bold"), *pairs(page, entries)]


def _loss_words(job: JobView) -> str:
    if job.progress is None or job.progress.loss is None:
        return ""
    evaluated = f", eval {job.progress.eval_loss:.3f}" if job.progress.eval_loss is not None else ""
    return f"{job.progress.loss:.3f}{evaluated}"


def reconciled_lines(settled: Reconciled, page: Page) -> list[str]:
    """What ``reconcile`` found, one line per launch."""
    words = (
        (settled.confirmed, "it runs; its launcher died before it could say so"),
        (settled.abandoned, "given up: it never started"),
        (settled.waiting, "still open"),
        (settled.adopted, "entered: the provider knew it, the ledger did not"),
    )
    rows = [Row([launch_id, text]) for ids, text in words for launch_id in ids]
    return table(page, [Column(""), Column("", flexible=True)], rows, indent=0) if rows else ["nothing was left open"]


def _cost(row: CostRow) -> str:
    """The sum, its range while a part of it shows only on the bill, and whether it is an upper bound."""
    if row.usd is None:
        return "unknown"
    if row.usd_low is None or row.usd_high is None or row.usd_low == row.usd_high:
        return f"at most {usd(row.usd)}" if row.at_most else usd(row.usd)
    return f"{usd(row.usd)} ({usd(row.usd_low)} to {usd(row.usd_high)})"


def cost_lines(costs: Costs, page: Page) -> list[str]:
    """``cost``: a row each, and the sum."""
    columns = [Column(costs.by), Column("jobs", "right"), Column("hours", "right"), Column("cost", "right")]
    if not costs.rows:
        return ["no jobs yet"]
    rows = [
        Row(
            [row.name, str(row.jobs), f"{row.hours:.2f}", _cost(row)],
            "bold" if row is costs.total else None,
        )
        for row in (*costs.rows, *((costs.total,) if len(costs.rows) > 1 else ()))
    ]
    return table(page, columns, rows, indent=0)
