"""Methods side by side, the limits of a card, a traced peak and an explanation as lines of text. Shows what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloudtune.show.tables import heading, layout_words, memory_lines, method_words
from cloudtune.show.text import Column, Page, Row, notes, pairs, table
from cloudtune.units import count, gib, usd

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe
    from cloudtune.verbs.sizing import Card, CardLimits, MethodSize, ModelSizes, TracedSize

LEAST_SHARE = 0.01  # parts below this of every method's peak share a row


def method_lines(sizes: ModelSizes, page: Page) -> list[str]:
    """One column for each method: the parts of its peak on one GPU, the peak, the smallest card that holds it."""
    loss = "fused loss" if sizes.fused_loss else "full loss"
    micro = sizes.methods[0].layout.micro_batch_size
    facts = f"on one GPU: {sizes.max_length:,} tokens, micro batch {micro}, gradient checkpointing, {loss}"
    title = heading(page, f"{sizes.model}: {count(sizes.parameters)} parameters")
    columns = [Column(""), *(Column(item.name, "right") for item in sizes.methods)]
    return [title, f"  {facts}", "", *table(page, columns, _method_rows(sizes.methods)), "", *notes(page, _method_notes(sizes.methods))]


def _method_rows(methods: Sequence[MethodSize]) -> list[Row]:
    names = _parts(methods)
    rows = [Row([name, *(_part(item, name) for item in methods)]) for name in names]
    rest = [item.memory.peak_bytes - sum(part.bytes for part in item.memory.parts if part.name in names) for item in methods]
    if any(rest):
        rows.append(Row(["small parts", *(gib(size) if size else "" for size in rest)]))
    rows.append(Row(["peak", *(gib(item.memory.peak_bytes) for item in methods)], "bold"))
    rows.append(Row(["give or take", *(f"{item.memory.error_bar:.0%}" for item in methods)]))
    rows.append(Row(["fits", *(_card(item.card) for item in methods)], "green"))
    if any(item.sharded for item in methods):
        rows.append(Row(["with FSDP, each", *(gib(item.sharded.peak_bytes) if item.sharded else "" for item in methods)]))
    rows.append(Row(["machine from", *(_rate(item.card) for item in methods)]))
    return rows


def _method_notes(methods: Sequence[MethodSize]) -> list[str]:
    said = ["fits: the smallest card that holds it, margin included; where no machine with one GPU does, 8 of them with FSDP"]
    dates = sorted({item.card.price_date for item in methods if item.card and item.card.price_date})
    if dates:
        said.append(
            f"machine from: the lowest known price of an hour, spot included, of {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
        )
    return [*said, "machine, time and price of your job: cloudtune init, then cloudtune plan RECIPE"]


def _parts(methods: Sequence[MethodSize]) -> list[str]:
    """Names of the parts that matter to some method, in the order of the itemised bar."""
    order: dict[str, float] = {}
    for item in methods:
        for part in item.memory.parts:
            order[part.name] = max(order.get(part.name, 0.0), part.bytes / item.memory.peak_bytes)
    return [name for name, share in order.items() if share >= LEAST_SHARE]


def _part(item: MethodSize, name: str) -> str:
    size = sum(part.bytes for part in item.memory.parts if part.name == name)
    return gib(size) if size else ""


def _card(card: Card | None) -> str:
    if card is None:
        return "no machine"
    return f"{card.count} x {card.gpu}" if card.count > 1 else card.gpu


def _rate(card: Card | None) -> str:
    return f"{usd(card.usd_per_hour)}/h" if card is not None and card.usd_per_hour is not None else ""


def limit_lines(recipe: Recipe, limits: Sequence[CardLimits], page: Page) -> list[str]:
    """A row for each card: its longest sequence and its biggest micro batch."""
    first = limits[0]
    columns = [Column("one GPU"), Column("memory", "right")]
    if first.max_length is not None:
        columns += [Column("longest max_length", "right"), Column("", flexible=True)]
    if first.micro_batch is not None:
        columns.append(Column("biggest micro batch", "right"))
    rows = [Row(_limit_cells(item)) for item in limits]
    checkpointing = "gradient checkpointing" if first.layout.gradient_checkpointing else "no gradient checkpointing"
    said = []
    if first.max_length is not None:
        said.append(f"the longest max_length is at micro batch {first.layout.micro_batch_size}")
    if first.micro_batch is not None:
        said.append(f"the biggest micro batch is at max_length {first.length:,}")
    said.append("margins included; one more does not fit")
    return [heading(page, f"{method_words(recipe)}, {checkpointing}"), *table(page, columns, rows), *notes(page, said)]


def _limit_cells(item: CardLimits) -> list[str]:
    cells = [item.gpu, gib(item.gpu_bytes)]
    if item.max_length is not None:
        cells += [f"{item.max_length:,}" if item.max_length else "none", "all that the model has" if item.bound_by == "positions" else ""]
    if item.micro_batch is not None:
        cells.append(f"{item.micro_batch:,}" if item.micro_batch else "none")
    return cells


def traced_lines(size: TracedSize, page: Page) -> list[str]:
    """The traced peak, the card that holds it, and what the template says of the same job."""
    fits = f"{size.card.gpu} with {gib(size.card.gpu_bytes)}" if size.card else "no single GPU of the machines looked at"
    rate = f", from {_rate(size.card)} ({size.card.instance})" if size.card and _rate(size.card) else ""
    facts = [("layout", layout_words(size.layout)), ("fits", f"{fits}{rate}")]
    if size.template is not None:
        change = size.template.allocated_bytes / size.memory.allocated_bytes - 1
        facts.append(("template", f"{gib(size.template.peak_bytes)} for the same job (live memory {change:+.1%}): plan uses that"))
    title = f"{size.model}: {size.method}, traced from the model's own code, on {size.device}"
    return [heading(page, title), *pairs(page, facts), "", *memory_lines(size.memory, None, page)]


def explanation_lines(sentences: Sequence[str], page: Page) -> list[str]:
    """The explanation under its heading."""
    return [heading(page, "Why so much"), *notes(page, sentences)]
