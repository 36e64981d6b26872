"""The result of a dry run as text: what was proved, the data's faults, samples with the trained tokens coloured, lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.show.text import Page, meter, notes, pairs, plain, wrap

if TYPE_CHECKING:
    from cloudtune.recipe.examination import Examination, Sample
    from cloudtune.verbs.dryrun import DryRun

BAR_COLUMNS = 30
# Where no colour shows, trained tokens stand between these.
_MARKS = ("«", "»")
_PLAIN_MARKS = ("[[", "]]")


def dry_run_lines(run: DryRun, page: Page) -> list[str]:
    """Everything, in the order in which it is read: verdict, proofs, faults, samples, lengths, what is unproved."""
    lines = [page.paint(f"Dry run of {run.recipe}", "bold") + f" under the {run.contract} contract, {run.engine}"]
    for proof in run.proofs:
        sign, style = ("ok", "green") if proof.ok else ("no", "red")
        mark = page.paint(sign, "green" if style == "green" else "red")
        lines += pairs(page, [(proof.name.ljust(28), f"{mark}  {plain(proof.detail)}")])
    if run.defects:
        lines += ["", page.paint("Faults of the data", "bold"), *notes(page, run.defects, style="red" if not run.ok else "yellow")]
    if run.examination:
        lines += _examination_lines(run, run.examination, page)
    if run.log_tail:
        lines += ["", page.paint("Last lines of the log", "bold"), *(f"  {plain(line)}" for line in run.log_tail)]
    lines += ["", page.paint("Not proved by this", "bold"), *notes(page, run.unproved)]
    verdict = "the job works" if run.ok else "the job would not work as it is"
    return [*lines, "", page.paint(f"{verdict}; {run.seconds:.0f} s, nothing was spent", "green" if run.ok else "red")]


def _examination_lines(run: DryRun, found: Examination, page: Page) -> list[str]:
    lines: list[str] = []
    if found.dropped:
        dropped = [
            f"{drop.count:,} rows: {drop.reason}; first {run.places.get(drop.channel, drop.channel)}:{drop.line}" for drop in found.dropped
        ]
        lines += ["", page.paint("Rows left out", "bold"), *notes(page, dropped)]
    if found.samples:
        legend = "coloured" if page.colour else f"between {' and '.join(_marks(page))}"
        lines += ["", page.paint("Samples", "bold") + f", trained tokens {legend}"]
        for sample in found.samples:
            place = run.places.get(sample.channel, sample.channel)
            lines += [page.paint(f"  {place}:{sample.line}, {sample.trained_tokens} of {sample.tokens} tokens trained", "dim")]
            lines += _sample_lines(sample, page)
    if found.lengths:
        lines += ["", page.paint("Tokens per row", "bold"), *_histogram(found, page)]
    return lines


def _marks(page: Page) -> tuple[str, str]:
    return _MARKS if page.unicode else _PLAIN_MARKS


def _sample_lines(sample: Sample, page: Page) -> list[str]:
    before, after = ("", "") if page.colour else _marks(page)
    lines = [""]
    for stretch in sample.stretches:
        texts = (f"{before}{stretch.text}{after}" if stretch.trained else stretch.text).split("\n")
        for number, text in enumerate(texts):
            if number:
                lines.append("")
            lines[-1] += page.paint(plain(text), "green") if stretch.trained else plain(text)
    return [f"    {part}" for line in lines for part in wrap(line, page.width - 4 if page.width else 0)]


def _histogram(found: Examination, page: Page) -> list[str]:
    most = max(item.rows for item in found.lengths)
    entries = []
    for item in found.lengths:
        share = item.rows / most if most else 0.0
        entries.append(
            (f"{item.low:,}-{item.high:,}".rjust(15), f"{meter(page, share, BAR_COLUMNS).ljust(BAR_COLUMNS)}  {item.rows:,}".rstrip())
        )
    return pairs(page, entries)
