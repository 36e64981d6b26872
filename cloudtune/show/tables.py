"""Plans and estimates as lines of text. Shows what it is given; decides, fetches and computes nothing of weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cloudtune.show.text import Column, Page, Row, cells, meter, notes, pairs, plain, table
from cloudtune.units import count, duration, gib, usd

if TYPE_CHECKING:
    from cloudtune.memory.estimate import Estimate
    from cloudtune.planning.plan import Candidate, Chosen, DataStats, Plan, Rejected
    from cloudtune.recipe.layout import Layout
    from cloudtune.recipe.spec import Recipe
    from cloudtune.verbs.estimate import EstimateReport

SHOWN_CANDIDATES = 8
SHOWN_REJECTED = 12
_BAR = 24
_BASIS = {
    "counted": "counted",
    "sampled": "estimated from the text",
    "stated": "as the recipe states",
    "assumed": "assumed, the data is out of reach",
}


def heading(page: Page, text: str) -> str:
    """A heading line."""
    return page.paint(plain(text), "bold")


def plan_lines(plan: Plan, page: Page) -> list[str]:
    """The whole plan, its price last but one, then what it rests on."""
    lines = [heading(page, f"{plan.recipe.name}: {method_words(plan.recipe)}"), *pairs(page, _plan_pairs(plan)), ""]
    lines += [*memory_lines(plan.memory, plan.chosen.gpu_bytes, page), ""]
    if len(plan.candidates) > 1:
        lines += [heading(page, "Machines that would do"), *candidate_lines(plan.candidates, page, plan.chosen), ""]
    if plan.rejected:
        lines += [heading(page, "Machines that would not"), *rejected_lines(plan.rejected, page), ""]
    if plan.decisions:
        lines += [heading(page, "Decided for you"), *notes(page, plan.decisions), ""]
    if plan.advice:
        lines += [heading(page, "What would halve the price"), *notes(page, [item.effect for item in plan.advice]), ""]
    lines += notes(page, plan.warnings, sign="!", style="yellow")
    return lines[:-1] if lines and not lines[-1] else lines


def method_words(recipe: Recipe) -> str:
    """The method and base in words: ``qlora (nf4, r 16) of Qwen/Qwen3-8B``."""
    method = recipe.method
    details = [str(getattr(method, name)) for name in ("quantization",) if hasattr(method, name)]
    details += [f"r {method.r}"] if hasattr(method, "r") else []
    words = f" ({', '.join(details)})" if details else ""
    return f"{method.type}{words} of {recipe.model.base}"


def _plan_pairs(plan: Plan) -> list[tuple[str, str]]:
    return [
        ("machine", machine_words(plan.chosen, plan.layout)),
        ("layout", layout_words(plan.layout)),
        ("data", data_words(plan.data)),
        ("time", f"{spread(plan.hours, plan.hours_low, plan.hours_high)} for {plan.steps:,} steps"),
        ("price", price_words(plan)),
        ("sold out?", "then " + ", ".join(item.instance for item in plan.fallbacks) if plan.fallbacks else ""),
        ("limit", f"stopped after {duration(plan.max_seconds)} whatever happens" if plan.max_seconds else ""),
    ]


def machine_words(chosen: Chosen, layout: Layout) -> str:
    """Provider, machine and what it has."""
    if chosen.provider == "local":
        memory = f"{gib(chosen.gpu_bytes)} of memory"
        return f"this machine, {f'{layout.gpus} x {chosen.gpu}, {memory} each' if layout.gpus else f'CPU, {memory}'}"
    parts = [f"{chosen.provider} {chosen.region}", chosen.instance, chosen.purchase.replace("_", " ")]
    parts.append(f"{layout.gpus} x {chosen.gpu} with {gib(chosen.gpu_bytes)}" if layout.gpus else "CPU")
    return ", ".join([*parts, f"{layout.nodes} machines"] if layout.nodes > 1 else parts)


def layout_words(layout: Layout) -> str:
    """Where the batch size comes from."""
    factors = [f"micro batch {layout.micro_batch_size}", f"accumulation {layout.gradient_accumulation_steps}"]
    factors += [f"{layout.data_parallel} workers"] if layout.data_parallel > 1 else []
    extras = ["gradient checkpointing" if layout.gradient_checkpointing else "no gradient checkpointing"]
    extras += [layout.sharding] if layout.sharding != "none" else []
    extras += ["CPU offload"] if layout.cpu_offload else []
    return f"{' x '.join(factors)} = {layout.batch_size} sequences per step, {', '.join(extras)}"


def data_words(data: DataStats) -> str:
    """Size of the data and how well it is known."""
    basis = {
        "counted": "counted",
        "sampled": "estimated from the text",
        "stated": "as the recipe states",
        "assumed": "ASSUMED, nothing known",
    }
    size = f"{data.rows:,} rows, {count(data.tokens)} tokens per epoch"
    return f"{size} ({basis[data.basis]}), longest {data.longest_tokens:,}"


def spread(hours: float, low: float, high: float) -> str:
    """A time with its range."""
    middle = f"about {duration(hours * 3600)}"
    return middle if low == high else f"{middle} ({duration(low * 3600)} to {duration(high * 3600)})"


def price_words(plan: Plan) -> str:
    """The price with its range and the date of the prices."""
    if plan.chosen.usd_per_hour == 0:
        return "nothing, it is your own machine" if plan.chosen.purchase == "owned" else "unknown: none is published for this machine"
    nodes = f" x {plan.layout.nodes} machines" if plan.layout.nodes > 1 else ""
    basis = f"{usd(plan.chosen.usd_per_hour)} per hour{nodes}, prices of {plan.chosen.price_date}"
    return f"{usd(plan.usd)} ({usd(plan.usd_low)} to {usd(plan.usd_high)}) at {basis}"


def memory_lines(memory: Estimate, has_bytes: int | None, page: Page) -> list[str]:
    """Peak memory against what the machine has, then each part with its share as a bar."""
    has = f" of {gib(has_bytes)}" if has_bytes else ""
    title = f"Memory at the peak: {gib(memory.peak_bytes)}{has}, give or take {memory.error_bar:.0%}"
    lines = [heading(page, title)]
    parts = sorted((part for part in memory.parts if part.bytes), key=lambda part: -part.bytes)
    shown = [(part.name, part.bytes) for part in parts if part.bytes >= memory.peak_bytes / 100]
    small = parts[len(shown) :]
    if small:
        shown.append((f"{len(small)} small parts" if len(small) > 1 else small[0].name, sum(part.bytes for part in small)))
    biggest = max((size for _, size in shown), default=1)
    name_width = max((cells(name) for name, _ in shown), default=0)
    for name, size in shown:
        share = meter(page, size / biggest, _BAR)
        lines.append(f"  {plain(name).ljust(name_width)}  {gib(size):>9}  {page.paint(share, 'cyan')}".rstrip())
    if memory.peak_phase:
        why = "; ".join(part for part in (f"at its highest in: {memory.peak_phase}", memory.evidence) if part)
        lines += notes(page, [why], sign=" ", style="dim")
    return lines


def candidate_lines(candidates: Sequence[Candidate], page: Page, chosen: Chosen | None = None) -> list[str]:
    """The machines that fit, cheapest first, the chosen one marked; price last."""
    columns = [
        Column(""),
        Column("where", flexible=True),
        Column("machine"),
        Column("bought"),
        Column("gpus", "right"),
        Column("hours", "right"),
        Column("with risk", "right"),
        Column("price", "right"),
    ]
    rows = [_candidate_row(item, chosen) for item in candidates[:SHOWN_CANDIDATES]]
    return [*table(page, columns, rows, indent=0 if chosen else 2), *_more(page, len(candidates) - SHOWN_CANDIDATES)]


def _candidate_row(item: Candidate, chosen: Chosen | None) -> Row:
    taken = chosen is not None and all(
        getattr(item, name) == getattr(chosen, name) for name in ("provider", "region", "instance", "purchase")
    )
    gpus = item.layout.gpus * item.layout.nodes
    texts = [
        "*" if taken else "",
        f"{item.provider} {item.region}",
        item.instance,
        item.purchase.replace("_", " "),
        str(gpus) if gpus else "",
        f"{item.hours:.2f}",
        usd(item.risk_usd) if item.risk_usd != item.usd else "",
        usd(item.usd),
    ]
    return Row(texts, "green" if taken else None)


def rejected_lines(rejected: Sequence[Rejected], page: Page) -> list[str]:
    """The machines that do not fit, those with the same reason on one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in rejected:
        machines = groups.setdefault((item.provider, item.reason), [])
        if item.instance not in machines:
            machines.append(item.instance)
    columns = [Column("machine"), Column("why", flexible=True)]
    rows = [Row([f"{provider} {_several(machines)}", reason]) for (provider, reason), machines in list(groups.items())[:SHOWN_REJECTED]]
    return [*table(page, columns, rows), *_more(page, len(groups) - SHOWN_REJECTED)]


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _more(page: Page, hidden: int) -> list[str]:
    return [page.paint(f"  and {hidden} more; --json lists all", "dim")] if hidden > 0 else []


def estimate_lines(report: EstimateReport, page: Page) -> list[str]:
    """Memory, time and price on every machine."""
    title = f"{report.model}: {report.method}, {count(report.parameters)} parameters"
    facts = [("layout", layout_words(report.layout)), ("data", data_words(report.data)), ("steps", f"{report.steps:,}")]
    on = f" on {report.device}" if report.device else ""
    lines = [heading(page, f"{title}{on}"), *pairs(page, facts), "", *memory_lines(report.memory, None, page), ""]
    if report.candidates:
        lines += [heading(page, "Machines that would do"), *candidate_lines(report.candidates, page), ""]
    if report.rejected:
        lines += [heading(page, "Machines that would not"), *rejected_lines(report.rejected, page), ""]
    return lines[:-1]


def join(lines: Iterable[str]) -> str:
    """Lines as one text that ends with a newline."""
    return "".join(f"{line}\n" for line in lines)
