"""The allocated peak of a tape, without an allocator: what a trace of the real model is compared with."""

from __future__ import annotations

from cloudtune.memory.tape import Tape


def live_peak(tape: Tape) -> int:
    """Highest sum of live tensors, each rounded up to 512 bytes, from the first step on."""
    first = next(position for position, phase in tape.marks if phase == "forward")
    live = peak = 0
    sizes: list[int] = []
    for position, event in enumerate(tape.events[: tape.end]):
        if event > 0:
            sizes.append(-(-event // 512) * 512)
            live += sizes[-1]
            peak = max(peak, live) if position >= first else peak
        else:
            live -= sizes[~event]
    return peak
