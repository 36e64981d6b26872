"""Steps after the first, written down without running the model of the run again. Exact, or refused.

A later step makes and frees what the first one did, but for what stays: the libraries' workspaces and the optimizer's states
are made once. So it is the first step without the allocations that outlive it. Where anything else outlives a step (gradients
that are kept, logits that are held), or a step frees what it has not made, the steps differ and have to be run.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from cloudtune.memory.folding import Fold, Span
from cloudtune.memory.tape import Tape

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
    copies, gone = _copied(events, first, frozenset(stays), len(tape.names))
    at = _Places(start, len(tape.events), [start + place for place in gone], first, len(tape.names), stays)
    tape.marks += [(at.event(position), phase) for position, phase in step.marks]
    tape.events += copies
    once = set(stays)
    tape.kinds += [kind for ident, kind in enumerate(tape.kinds[first:last], first) if ident not in once]
    tape.names += [name for ident, name in enumerate(tape.names[first:last], first) if ident not in once]
    return [at.fold(fold) for fold in step.folds]


def _copied(events: list[int], first: int, stays: frozenset[int], free: int) -> tuple[list[int], list[int]]:
    """The events with ids from ``free`` on, those that stay left out; and where those were."""
    copies: list[int] = []
    moved: list[int] = []
    gone: list[int] = []
    for place, event in enumerate(events):
        if event < 0:
            copies.append(~moved[~event - first])
        elif first + len(moved) in stays:
            gone.append(place)
            moved.append(-1)
        else:
            copies.append(event)
            moved.append(free)
            free += 1
    return copies, gone


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
