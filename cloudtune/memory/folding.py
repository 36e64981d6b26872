"""Folding: a run with few layers, written out again as the run with all of them. Exact, so folding changes nothing.

In a row of identical layers the generator runs five: a b c d e. Layer c stands for the whole middle. Its forward events
are repeated after it and its backward events before it, with every reference shifted by one layer: what c frees of b
becomes, in a repetition, what that repetition frees of the one before it; what c's backward frees of d's, accordingly.
Frees of c's tensors outside its own events (gradients after the step, casts at the end of autocast) are repeated too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloudtune.memory.tape import Tape

Range = tuple[int, int]
LEAST = 6  # identical layers in a row from which on folding pays


@dataclass(slots=True)
class Span:
    """Where one piece of a layer lies: positions in the events, and the ids that it allocates."""

    events: Range = (0, 0)
    ids: Range = (0, 0)


@dataclass(slots=True)
class Fold:
    """One row of folded layers in one step: ``extra`` repetitions of layer c.

    ``before``: b's forward. ``forward``: c's. ``following``: d's. ``after``: d's backward. ``backward``: c's.
    """

    extra: int
    before: Span = field(default_factory=Span)
    forward: Span = field(default_factory=Span)
    following: Span = field(default_factory=Span)
    after: Span = field(default_factory=Span)
    backward: Span = field(default_factory=Span)

    @property
    def regular(self) -> bool:
        """Whether the neighbours allocate as many tensors as c, so that references can be shifted."""
        return _length(self.before.ids) == _length(self.forward.ids) and _length(self.after.ids) == _length(self.backward.ids)


def _length(span: Range) -> int:
    return span[1] - span[0]


class _Writer:
    """Builds the long tape. ``where[id]`` of the short tape is the id in the long one that a reference now means."""

    __slots__ = ("folds", "out", "repeated", "short", "where")

    def __init__(self, short: Tape, folds: list[Fold]) -> None:
        self.short = short
        self.folds = folds
        self.out = Tape()
        self.where: dict[int, int] = {}
        self.repeated: dict[int, list[int]] = {}

    def copy(self, start: int, stop: int, ident: int) -> int:
        """Events [start, stop) as they are; ``ident`` is the next id of the short tape; returns the one after."""
        events, where, repeated = self.out.events, self.where, self.repeated
        kinds, names = self.out.kinds, self.out.names
        for event in self.short.events[start:stop]:
            if event > 0:
                where[ident] = len(names)
                events.append(event)
                kinds.append(self.short.kinds[ident])
                names.append(self.short.names[ident])
                ident += 1
                continue
            events.append(~where[~event])
            if ~event in repeated:
                events.extend(~copied for copied in repeated.pop(~event))
        return ident

    def repeat(self, span: Span, lookup: dict[int, int]) -> dict[int, int]:
        """The events of ``span`` once more; ``lookup`` gives the meaning of ids from outside; returns that of its own."""
        own: dict[int, int] = {}
        events, kinds, names = self.out.events, self.out.kinds, self.out.names
        ident = span.ids[0]
        for event in self.short.events[span.events[0] : span.events[1]]:
            if event > 0:
                own[ident] = len(names)
                events.append(event)
                kinds.append(self.short.kinds[ident])
                names.append(self.short.names[ident])
                ident += 1
                continue
            target = ~event
            events.append(~(own[target] if target in own else lookup[target]))
        return own


def unfold(short: Tape, folds: list[Fold]) -> Tape:
    """The tape of the whole model. ``folds`` in the order of their forward pieces, one step after the other."""
    writer = _Writer(short, folds)
    cuts: list[tuple[int, int, str, Fold]] = []
    for fold in folds:
        cuts.append((fold.forward.events[1], 0, "forward", fold))
        cuts.append((fold.backward.events[0], 1, "backward", fold))
    forward_copies: dict[int, list[dict[int, int]]] = {}
    positions: list[tuple[int, int]] = []
    done, ident = 0, 0
    for cut, _, kind, fold in sorted(cuts, key=lambda item: (item[0], item[1])):
        ident = writer.copy(done, cut, ident)
        done = cut
        if kind == "forward":
            forward_copies[id(fold)] = _forward(writer, fold)
        else:
            _backward(writer, fold, forward_copies.pop(id(fold)))
        positions.append((cut, len(writer.out.events) - cut))
    end = short.end if short.end >= 0 else len(short.events)
    writer.copy(done, end, ident)
    writer.out.end = len(writer.out.events)
    _move_marks(short, writer.out, positions)
    return writer.out


def _forward(writer: _Writer, fold: Fold) -> list[dict[int, int]]:
    """Repeat c's forward events; afterwards a reference to c means its last repetition, as d expects."""
    where = writer.where
    (first_b, stop_b), (first_c, _) = fold.before.ids, fold.forward.ids
    copies: list[dict[int, int]] = [{ident: where[ident] for ident in range(*fold.forward.ids)}]
    for _ in range(fold.extra):
        last = copies[-1]
        lookup = {ident: last[first_c + ident - first_b] for ident in range(first_b, stop_b)}
        copies.append(writer.repeat(fold.forward, _Chain(lookup, where)))
    where.update(copies[-1])
    neighbours = _freed(writer.short, fold.forward, fold.following, fold.after, fold.backward)
    for ident in range(*fold.forward.ids):
        if ident not in neighbours:
            writer.repeated[ident] = [copied[ident] for copied in copies[:-1]]
    return copies


def _freed(short: Tape, *spans: Span) -> set[int]:
    """Ids that are freed within the spans."""
    return {~event for span in spans for event in short.events[span.events[0] : span.events[1]] if event < 0}


def _backward(writer: _Writer, fold: Fold, copies: list[dict[int, int]]) -> None:
    """Repeat c's backward events, last repetition first; then c itself follows with its own forward tensors."""
    where = writer.where
    (first_b, stop_b), (first_c, _) = fold.before.ids, fold.forward.ids
    (first_d, stop_d), (first_g, _) = fold.after.ids, fold.backward.ids
    incoming = {ident: where[ident] for ident in range(first_d, stop_d)}
    made: list[dict[int, int]] = []
    for index in range(fold.extra, 0, -1):
        below = copies[index - 1]
        lookup = dict(incoming)
        lookup.update(copies[index])
        lookup.update({ident: below[first_c + ident - first_b] for ident in range(first_b, stop_b)})
        own = writer.repeat(fold.backward, _Chain(lookup, where))
        made.append(own)
        incoming = {ident: own[first_g + ident - first_d] for ident in range(first_d, stop_d)}
    where.update(copies[0])
    kept = {ident: where[ident] for ident in range(first_d, stop_d)}
    where.update(incoming)
    _register(writer, fold, copies, made, kept)


def _register(writer: _Writer, fold: Fold, copies: list[dict[int, int]], made: list[dict[int, int]], kept: dict[int, int]) -> None:
    """Remember which repetitions must be freed when c's own tensor is freed outside its events."""
    inside = _freed(writer.short, fold.backward)
    for ident in range(*fold.forward.ids):
        if ident in writer.repeated:
            writer.repeated[ident] = [copied[ident] for copied in copies[1:]]
    shift = fold.backward.ids[0] - fold.after.ids[0]
    handed_on = {ident + shift for ident in kept if ident in inside}  # what b frees of c, as c frees it of d
    for ident in range(*fold.backward.ids):
        if ident not in inside and ident not in handed_on:
            writer.repeated[ident] = [own[ident] for own in made]
    # d's gradients that c frees belong to c's new neighbour; all others of d's are d's own again
    for ident, target in kept.items():
        if ident not in inside:
            writer.where[ident] = target


class _Chain(dict[int, int]):
    """A lookup with a second one behind it."""

    __slots__ = ("behind",)

    def __init__(self, first: dict[int, int], behind: dict[int, int]) -> None:
        super().__init__(first)
        self.behind = behind

    def __missing__(self, ident: int) -> int:
        return self.behind[ident]


def _move_marks(short: Tape, long: Tape, positions: list[tuple[int, int]]) -> None:
    def moved(position: int) -> int:
        shift = 0
        for cut, total in positions:
            if cut > position:
                break
            shift = total
        return position + shift

    long.marks = [(moved(position), phase) for position, phase in short.marks]
    long.commands = [(moved(position), word) for position, word in short.commands]
