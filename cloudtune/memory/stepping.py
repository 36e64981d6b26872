"""Steps after the first, written down without running the model of the run again. Exact, or refused.

A later step makes and frees what the first one did, but for what stays: the libraries' workspaces and the optimizer's states
are made once. So it is the first step without the allocations that outlive it. Where anything else outlives a step (gradients
that are kept, logits that are held), or a step frees what it has not made, the steps differ and have to be run.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TypeVar

from cloudtune.memory.folding import Fold, Span
from cloudtune.memory.tape import Tape

Item = TypeVar("Item")
ONCE = frozenset({"workspaces", "optimizer states"})


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step lies on the tape: positions in the events, the ids that it allocates, its marks, and its folded rows."""

    span: Span
    marks: tuple[tuple[int, str], ...]
    folds: tuple[Fold, ...]


def repeat(tape: Tape, step: Step) -> list[Fold] | None:
    """Write the step down once more; its folded rows. None, and nothing written, where the next step would be another one."""
    (start, stop), (first, last) = step.span.events, step.span.ids
    events = tape.events[start:stop]
    freed = {~event for event in events if event < 0}
    stays = [ident for ident in range(first, last) if ident not in freed]
    foreign = freed and min(freed) < first
    if foreign or not all(tape.kinds[ident] in ONCE for ident in stays) or any(position > start for position, _ in tape.commands):
        return None
    made_at = list(compress(range(start, stop), [event > 0 for event in events]))
    at = _Places(start, len(tape.events), [made_at[ident - first] for ident in stays], first, len(tape.names), stays)
    tape.marks += [(at.event(position), phase) for position, phase in step.marks]
    copies = list(accumulate([ident in freed for ident in range(first, last)], initial=len(tape.names)))
    tape.events += _without([event if event > 0 else ~copies[~event - first] for event in events], at.gone, start)
    tape.kinds += _without(tape.kinds[first:last], stays, first)
    tape.names += _without(tape.names[first:last], stays, first)
    return [at.fold(fold) for fold in step.folds]


def _without(items: list[Item], places: list[int], start: int) -> list[Item]:
    """The items, whose places count from ``start`` on, without those at ``places``, which ascend. Changes the list that it is given."""
    for place in reversed(places):
        del items[place - start]
    return items


@dataclass(frozen=True, slots=True)
class _Places:
    """Where places of the step lie in its copy: everything after an allocation that is left out comes one earlier."""

    start: int
    new_start: int
    gone: list[int]
    first: int
    new_first: int
    stays: list[int]

    def event(self, position: int) -> int:
        return position - self.start + self.new_start - bisect_left(self.gone, position)

    def ident(self, ident: int) -> int:
        return ident - self.first + self.new_first - bisect_left(self.stays, ident)

    def span(self, span: Span) -> Span:
        (start, stop), (first, last) = span.events, span.ids
        return Span((self.event(start), self.event(stop)), (self.ident(first), self.ident(last)))

    def fold(self, fold: Fold) -> Fold:
        return Fold(fold.extra, *(self.span(span) for span in (fold.before, fold.forward, fold.following, fold.after, fold.backward)))
