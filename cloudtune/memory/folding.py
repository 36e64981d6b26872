"""Folding: a run with few layers, written out again as the run with all of them. Exact, so folding changes nothing.

In a row of identical layers the generator runs five: a b c d e. Layer c stands for the whole middle. Its forward events
are repeated after it and its backward events before it, with every reference shifted by one layer: what c frees of b
becomes, in a repetition, what that repetition frees of the one before it; what c's backward frees of d's, accordingly.
Frees of c's tensors outside its own events (gradients after the step, casts at the end of autocast) are repeated too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloudtune.memory.tape import Row, Tape

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


class _Template:
    """A piece of the short tape, ready to be written many times.

    ``codes``: allocations as they are, own frees as ``~(place among the own ids)``. ``outside``: (place, which, offset) of the
    other frees; they free the id that lies ``offset`` after where the neighbour number ``which`` of ``near`` begins.
    """

    __slots__ = ("codes", "kinds", "names", "outside")

    def __init__(self, short: Tape, span: Span, near: list[Range], where: list[int]) -> None:
        first, last = span.ids
        self.codes = short.events[span.events[0] : span.events[1]]
        self.outside: list[tuple[int, int, int]] = []
        for place, event in enumerate(self.codes):
            if event > 0:
                continue
            if first <= ~event < last:
                self.codes[place] = ~(~event - first)
            else:
                self.codes[place] = 1
                self.outside.append((place, *_meaning(~event, near, where)))
        self.kinds = short.kinds[first:last]
        self.names = short.names[first:last]


def _meaning(ident: int, near: list[Range], where: list[int]) -> tuple[int, int]:
    """(which neighbour, offset in it) of an id of the short tape; (-1, its id in the long tape) when it is of none."""
    for which, (first, stop) in enumerate(near):
        if first <= ident < stop:
            return which, ident - first
    return -1, where[ident]


class _Writer:
    """Builds the long tape. ``where[id]`` of the short tape is the id in the long one that a reference now means."""

    __slots__ = ("out", "repeated", "shifts", "short", "where")

    def __init__(self, short: Tape) -> None:
        self.short = short
        self.out = Tape(streams=short.streams)
        self.where = list(range(len(short.names)))
        self.repeated: dict[int, list[int]] = {}
        self.shifts: list[tuple[int, int]] = []
        """(position in the short tape, how much later the same place comes in the long one from there on)."""

    def copy(self, start: int, stop: int, ident: int) -> int:
        """Events [start, stop) as they are; ``ident`` is the next id of the short tape; returns the one after."""
        out, where, repeated = self.out, self.where, self.repeated
        events = out.events
        pieces = self.short.events[start:stop]
        first, base = ident, len(out.names)
        ident += sum(event > 0 for event in pieces)
        where[first:ident] = range(base, base + ident - first)
        if base == first and not repeated and not self.shifts:  # the beginning, where nothing has moved yet
            events += pieces
            pieces = []
        for position, event in enumerate(pieces, start + 1):
            if event > 0:
                events.append(event)
                continue
            events.append(~where[~event])
            if ~event in repeated:
                events.extend(~copied for copied in repeated.pop(~event))
                self.shifts.append((position, len(events) - position))
        out.kinds += self.short.kinds[first:ident]
        out.names += self.short.names[first:ident]
        return ident

    def repeat(self, template: _Template, *near: int) -> int:
        """The template once more; ``near``: the first id of each of its neighbours; returns the first id of its own."""
        out = self.out
        base = len(out.names)
        piece = [code if code > 0 else code - base for code in template.codes]
        starts = (*near, 0)
        for place, which, offset in template.outside:
            piece[place] = ~(starts[which] + offset)
        out.events += piece
        out.kinds += template.kinds
        out.names += template.names
        return base


def unfold(short: Tape, folds: list[Fold]) -> Tape:
    """The tape of the whole model. ``folds`` in the order of their forward pieces, one step after the other."""
    writer = _Writer(short)
    cuts: list[tuple[int, int, Fold]] = []
    cuts.extend((fold.forward.events[1], 0, fold) for fold in folds)
    cuts.extend((fold.backward.events[0], 1, fold) for fold in folds)
    bases: dict[int, list[int]] = {}
    done, ident = 0, 0
    for cut, is_backward, fold in sorted(cuts, key=lambda item: (item[0], item[1])):
        ident = writer.copy(done, cut, ident)
        done = cut
        if is_backward:
            _backward(writer, fold, bases.pop(id(fold)))
        else:
            bases[id(fold)] = _forward(writer, fold)
        writer.shifts.append((cut, len(writer.out.events) - cut))
    writer.copy(done, short.end if short.end >= 0 else len(short.events), ident)
    writer.out.end = len(writer.out.events)
    _move_marks(short, writer.out, writer.shifts)
    return writer.out


def _forward(writer: _Writer, fold: Fold) -> list[int]:
    """Repeat c's forward events; afterwards a reference to c means its last repetition, as d expects.

    Returns the first id of c and of each repetition.
    """
    where = writer.where
    first_c, stop_c = fold.forward.ids
    bases = [where[first_c] if stop_c > first_c else 0]
    template = _Template(writer.short, fold.forward, [fold.before.ids], where)
    if not template.outside:
        writer.out.rows.append(Row(len(writer.out.events), len(template.codes), fold.extra))
    for _ in range(fold.extra):
        bases.append(writer.repeat(template, bases[-1]))
    _point(where, fold.forward.ids, bases[-1])
    neighbours = _freed(writer.short, fold.forward, fold.following, fold.after, fold.backward)
    for ident in range(first_c, stop_c):
        if ident not in neighbours:
            writer.repeated[ident] = [base + ident - first_c for base in bases[:-1]]
    return bases


def _point(where: list[int], ids: Range, base: int) -> None:
    """References to ``ids`` now mean the ids from ``base`` on."""
    where[ids[0] : ids[1]] = range(base, base + _length(ids))


def _freed(short: Tape, *spans: Span) -> set[int]:
    """Ids that are freed within the spans."""
    return {~event for span in spans for event in short.events[span.events[0] : span.events[1]] if event < 0}


def _backward(writer: _Writer, fold: Fold, bases: list[int]) -> None:
    """Repeat c's backward events, last repetition first; then c itself follows with its own forward tensors."""
    where = writer.where
    first_d, stop_d = fold.after.ids
    template = _Template(writer.short, fold.backward, [fold.forward.ids, fold.before.ids, fold.after.ids], where)
    incoming = where[first_d] if stop_d > first_d else 0
    made: list[int] = []
    for index in range(fold.extra, 0, -1):
        incoming = writer.repeat(template, bases[index], bases[index - 1], incoming)
        made.append(incoming)
    _point(where, fold.forward.ids, bases[0])
    inside = _freed(writer.short, fold.backward)
    for ident in range(first_d, stop_d):
        if ident in inside:  # what c frees of d is now what it frees of its first repetition
            where[ident] = incoming + ident - first_d
    _register(writer, fold, bases, made, inside)


def _register(writer: _Writer, fold: Fold, bases: list[int], made: list[int], inside: set[int]) -> None:
    """Remember which repetitions must be freed when c's own tensor is freed outside its events."""
    first_c, first_g, shift = fold.forward.ids[0], fold.backward.ids[0], fold.backward.ids[0] - fold.after.ids[0]
    for ident in range(*fold.forward.ids):
        if ident in writer.repeated:
            writer.repeated[ident] = [base + ident - first_c for base in bases[1:]]
    handed_on = {ident + shift for ident in range(*fold.after.ids) if ident in inside}  # what b frees of c, as c frees it of d
    for ident in range(*fold.backward.ids):
        if ident not in inside and ident not in handed_on:
            writer.repeated[ident] = [base + ident - first_g for base in made]


def _move_marks(short: Tape, long: Tape, shifts: list[tuple[int, int]]) -> None:
    def moved(position: int) -> int:
        shift = 0
        for cut, total in shifts:
            if cut > position:
                break
            shift = total
        return position + shift

    long.marks = [(moved(position), phase) for position, phase in short.marks]
    long.commands = [(moved(position), word) for position, word in short.commands]
