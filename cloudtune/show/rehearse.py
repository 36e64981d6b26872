"""The result of a rehearsal as text: what was proved in the order of a launch, and what was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.show.text import Page, notes, pairs, plain

if TYPE_CHECKING:
    from cloudtune.verbs.rehearse import Rehearsed

_PLACES = {"process": "plain processes", "container": "real containers"}


def rehearsal_lines(run: Rehearsed, page: Page) -> list[str]:
    """Everything, in the order in which it is read."""
    head = page.paint(f"Rehearsal of {run.recipe}", "bold")
    lines = [f"{head} on a stand-in {run.cloud}: {run.machine}, in {_PLACES[run.mode]}"]
    for proof in run.proofs:
        mark = page.paint("ok", "green") if proof.ok else page.paint("no", "red")
        lines += pairs(page, [(proof.name.ljust(24), f"{mark}  {plain(proof.detail)}")])
    if run.log_tail:
        lines += ["", page.paint("Last lines of the log", "bold"), *(f"  {plain(line)}" for line in run.log_tail)]
    lines += ["", page.paint("Not proved by this", "bold"), *notes(page, run.unproved)]
    verdict = "the launch works" if run.ok else "the launch would not work as it is"
    return [*lines, "", page.paint(f"{verdict}; {run.seconds:.0f} s, nothing was spent", "green" if run.ok else "red")]
