"""Folding: a run with few layers, written out again as the run with all of them. Exact, or refused: folding changes nothing.

In a row of identical layers the generator runs three: b c d; five, with b and d twice, where the first or the last one differs in
what it keeps and frees. Layer c stands for the whole middle. Its forward events are repeated after it and its backward events
before it, with every reference shifted by one layer: what c frees of b becomes, in a repetition, what that repetition frees of
the one before it; what c's backward frees of d's, accordingly.
Frees of c's tensors outside its own events (gradients after the step, casts at the end of autocast) are repeated too.
The libraries' workspaces, which the first layer makes once and for all, are passed over when layers are compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cloudtune.memory.tape import Row, Tape

Range = tuple[int, int]
LEAST = 4  # identical layers in a row from which on folding pays


@dataclass(slots=True)
class Span:
    """Where one piece of a layer lies: positions in the events, and the ids that it allocates.

    ``once``: those of them that stay for ever, in order.
    """

    events: Range = (0, 0)
    ids: Range = (0, 0)
    once: tuple[int, ...] = ()

    def made(self, short: Tape) -> list[int]:
        """The bytes of what it allocates each time, in order."""
        sizes = [event for event in short.events[self.events[0] : self.events[1]] if event > 0]
        return [sizes[ident - self.ids[0]] for ident in self.idents()]

    def frees_only(self, short: Tape, *pieces: Span) -> bool:
        """Whether everything that is freed in it was allocated by one of the pieces. Anything else can be freed but once."""
        return _freed(short, self).issubset(chain.from_iterable(range(*piece.ids) for piece in pieces))

    def freed_in(self, short: Tape, other: Span) -> list[int]:
        """What of it is freed within another piece: the places of that, ascending."""
        return sorted(place for place in map(self.place, _freed(short, other)) if place >= 0)

    def place(self, ident: int) -> int:
        """Which place ``ident`` has among what the piece allocates each time, from 0 on; -1 when it is not of this piece."""
        inside = self.ids[0] <= ident < self.ids[1]
        return ident - self.ids[0] - bisect_left(self.once, ident) if inside else -1

    def idents(self) -> list[int]:
        """What it allocates each time, in order."""
        return [ident for ident in range(*self.ids) if ident not in self.once]


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

    def is_regular(self, short: Tape) -> bool:
        """Whether c's neighbours do to c, and c to them, what the repetitions are going to do to each other. Ask right after the step.

        A first layer whose input has no gradient may allocate as much as the others, and keep and free other things of it.
        Then the next one may be the last that needs what all share, such as the angles of rotary positions.
        """
        theirs = self.forward.frees_only(short, self.forward, self.before)
        theirs &= self.backward.frees_only(short, self.backward, self.forward, self.before, self.after)
        if self.forward.once or self.backward.once or not theirs:
            return False
        rest = Span((self.backward.events[1], len(short.events)))
        return (
            self.before.made(short) == self.forward.made(short)
            and self.after.made(short) == self.backward.made(short)
            and self.before.freed_in(short, self.forward) == self.forward.freed_in(short, self.following)
            and self.before.freed_in(short, self.backward) == self.forward.freed_in(short, self.after)
            and self.after.freed_in(short, self.backward) == self.backward.freed_in(short, rest)
        )


class _Template:
    """A piece of the short tape, ready to be written many times.

    ``codes``: allocations as they are, own frees as ``~(place among the own ids)``. ``outside``: (place, which, offset) of the
    other frees; they free what the neighbour number ``which`` of ``near`` has allocated as the ``offset``-th.
    """

    __slots__ = ("codes", "kinds", "names", "outside")

    def __init__(self, short: Tape, span: Span, near: list[Span]) -> None:
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
                self.outside.append((place, *_meaning(~event, near)))
        self.kinds = short.kinds[first:last]
        self.names = short.names[first:last]


def _meaning(ident: int, near: list[Span]) -> tuple[int, int]:
    """(which neighbour, offset in it) of an id of the short tape."""
    return next((which, span.place(ident)) for which, span in enumerate(near) if span.place(ident) >= 0)


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

    def repeat(self, template: _Template, *near: Sequence[int]) -> Sequence[int]:
        """The template once more; ``near``: the ids of each of its neighbours; returns its own."""
        out = self.out
        base = len(out.names)
        piece = [code if code > 0 else code - base for code in template.codes]
        for place, which, offset in template.outside:
            piece[place] = ~near[which][offset]
        out.events += piece
        out.kinds += template.kinds
        out.names += template.names
        return range(base, len(out.names))


def unfold(short: Tape, folds: list[Fold]) -> Tape:
    """The tape of the whole model. ``folds`` in the order of their forward pieces, one step after the other."""
    writer = _Writer(short)
    cuts: list[tuple[int, int, Fold]] = []
    cuts.extend((fold.forward.events[1], 0, fold) for fold in folds)
    cuts.extend((fold.backward.events[0], 1, fold) for fold in folds)
    made: dict[int, list[Sequence[int]]] = {}
    done, ident = 0, 0
    for cut, is_backward, fold in sorted(cuts, key=lambda item: (item[0], item[1])):
        ident = writer.copy(done, cut, ident)
        done = cut
        if is_backward:
            _backward(writer, fold, made.pop(id(fold)))
        else:
            made[id(fold)] = _forward(writer, fold)
        writer.shifts.append((cut, len(writer.out.events) - cut))
    writer.copy(done, short.end if short.end >= 0 else len(short.events), ident)
    writer.out.end = len(writer.out.events)
    _move_marks(short, writer.out, writer.shifts)
    return writer.out


def _forward(writer: _Writer, fold: Fold) -> list[Sequence[int]]:
    """Repeat c's forward events; afterwards a reference to c means its last repetition, as d expects.

    Returns the ids of c and of each repetition.
    """
    where = writer.where
    own = range(*fold.forward.ids)
    made: list[Sequence[int]] = [where[own.start : own.stop]]
    template = _Template(writer.short, fold.forward, [fold.before])
    if not template.outside:
        writer.out.rows.append(Row(len(writer.out.events), len(template.codes), fold.extra))
    for _ in range(fold.extra):
        made.append(writer.repeat(template, made[-1]))
    where[own.start : own.stop] = made[-1]
    neighbours = _freed(writer.short, fold.forward, fold.following, fold.after, fold.backward)
    _note(writer, own, made[:-1], neighbours)
    return made


def _freed(short: Tape, *spans: Span) -> set[int]:
    """Ids that are freed within the spans."""
    return {~event for span in spans for event in short.events[span.events[0] : span.events[1]] if event < 0}


def _note(writer: _Writer, idents: Iterable[int], copies: list[Sequence[int]], but: set[int]) -> None:
    """What must be freed too when one of c's ``idents``, those in ``but`` left out, is freed outside its events."""
    for place, ident in enumerate(idents):
        if ident not in but:
            writer.repeated[ident] = [copy[place] for copy in copies]


def _backward(writer: _Writer, fold: Fold, forward: list[Sequence[int]]) -> None:
    """Repeat c's backward events, last repetition first; then c itself follows with its own forward tensors."""
    where = writer.where
    template = _Template(writer.short, fold.backward, [fold.forward, fold.before, fold.after])
    theirs = fold.after.idents()
    incoming: Sequence[int] = [where[ident] for ident in theirs]
    made: list[Sequence[int]] = []
    for index in range(fold.extra, 0, -1):
        incoming = writer.repeat(template, forward[index], forward[index - 1], incoming)
        made.append(incoming)
    own = range(*fold.forward.ids)
    where[own.start : own.stop] = forward[0]
    _note(writer, own, forward[1:], {ident for ident in own if ident not in writer.repeated})
    inside = _freed(writer.short, fold.backward)
    handed_on = set()
    for place, ident in enumerate(theirs):
        if ident in inside:  # what c frees of d is now what it frees of its first repetition, and what b frees of c, as c does of d
            where[ident] = incoming[place]
            handed_on.add(fold.backward.ids[0] + place)
    _note(writer, range(*fold.backward.ids), made, inside | handed_on)


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
