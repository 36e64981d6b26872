"""The tape: every allocation and free of a training run in order, with what it is for. Knows no model and no allocator.

Lifetimes are Python's own. A ``Storage`` frees itself on the tape when its last reference goes, exactly as a tensor
does in torch, so the templates only have to hold what the real code holds, for as long as the real code holds it.
This relies on reference counting (CPython), as torch's own behaviour does.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """From the event at ``start`` on, ``count`` times the same ``length`` events; each time they free only what they have made.

    No command lies inside.
    """

    start: int
    length: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.length * self.count


@dataclass(slots=True)
class Tape:
    """``events``: a positive number allocates that many bytes (ids count up from 0), ``~id`` frees that id.

    ``kinds`` and ``names`` say, per id, to which share of the memory it belongs and what it is. ``marks`` are
    (position in events, phase): the phase that begins there. ``commands`` are (position, command) for the allocator.
    ``streams``: name → number of the CUDA stream, other than the one that computes, in which what is called so is allocated.
    ``rows``: where the same events follow one another many times.
    """

    events: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    commands: list[tuple[int, str]] = field(default_factory=list)
    streams: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kind: str = "activations"
    end: int = -1

    def alloc(self, size: int, name: str) -> int:
        """Allocate ``size`` bytes under the current kind; the id."""
        self.events.append(size)
        self.kinds.append(self.kind)
        self.names.append(name)
        return len(self.names) - 1

    def write(self, codes: list[int], names: list[str]) -> None:
        """Write a pattern down under the current kind: events whose ids count from 0, and the names of what it allocates."""
        base = len(self.names)
        self.events += [code if code > 0 else code - base for code in codes]
        self.kinds += [self.kind] * len(names)
        self.names += names

    def keep(self, sizes: list[int], name: str) -> None:
        """Allocate what stays to the end of the run, under the current kind."""
        self.events += sizes
        self.kinds += [self.kind] * len(sizes)
        self.names += [name] * len(sizes)

    def mark(self, phase: str) -> None:
        """The following events belong to ``phase``."""
        self.marks.append((len(self.events), phase))

    def command(self, word: str) -> None:
        """Tell the allocator something: ``empty_cache`` or ``reset_peak``."""
        self.commands.append((len(self.events), word))

    def finish(self) -> None:
        """Everything after this point is the tidying up of the model of the run, not of the run."""
        self.end = len(self.events)


class Storage:
    """A block of device memory: lives as long as somebody holds it."""

    __slots__ = ("events", "ident")

    def __init__(self, tape: Tape, size: int, name: str) -> None:
        self.events = events = tape.events
        self.ident = -1
        if size > 0:  # Tape.alloc, written out: tens of thousands are made for one estimate
            names = tape.names
            self.ident = len(names)
            events.append(size)
            tape.kinds.append(tape.kind)
            names.append(name)

    def __del__(self) -> None:
        if self.ident >= 0:
            self.events.append(~self.ident)
