"""Optimizer states and what a step borrows, per kind of optimizer. Sizes only.

Sources: torch optim/adamw.py, sgd.py (fused, foreach, loop); bitsandbytes 0.50 optim/optimizer.py (8-bit states from
4,096 numbers on, scales per 256, paged from 100,000); transformers 5.23 optimization.py (Adafactor).
"""

from __future__ import annotations

from cloudtune.memory.autograd import Leaf
from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.tape import Storage, Tape

STATES = {"adamw": 2, "adamw_32bit": 2, "adamw_8bit": 2, "lion_8bit": 1, "sgd": 0, "sgd_momentum": 1}
SMALLEST_8BIT = 4096
SCALE_BLOCK = 256
SMALLEST_PAGED = 100_000


class Optimizer:
    """States of all trained parameters; made in the first step."""

    __slots__ = ("behaviour", "first", "leaves", "shards", "tape")

    def __init__(self, tape: Tape, leaves: list[Leaf], behaviour: Behaviour, shards: int = 1) -> None:
        self.tape = tape
        self.leaves = leaves
        self.behaviour = behaviour
        self.shards = shards
        self.first = True

    def step(self) -> None:
        """Clip, make missing states, update."""
        kind, self.tape.kind = self.tape.kind, "optimizer states"
        if self.behaviour.clip_gradients:
            norms = Storage(self.tape, 512 * len(self.leaves), "gradient norms")
            del norms
        if self.first:
            self._make_states()
            self.first = False
        self._borrow()
        self.tape.kind = kind

    def _make_states(self) -> None:
        """They stay to the end of the run. A leaf that stands for folded layers comes once for each of them."""
        known: dict[int, list[int]] = {}
        for leaf in self.leaves:
            if id(leaf) not in known:
                sizes = state_sizes(-(-leaf.count // self.shards), leaf.word, self.behaviour, table=leaf.table)
                known[id(leaf)] = [size for size in sizes if size > 0]
            self.tape.keep(known[id(leaf)], f"moment of {leaf.name}")

    def _borrow(self) -> None:
        """What the update itself needs: foreach one more copy of everything, the loop one tensor at a time, fused nothing."""
        behaviour, tape = self.behaviour, self.tape
        if behaviour.optimizer == "adafactor":
            largest = max((leaf.count for leaf in self.leaves), default=0) // self.shards
            temporaries = [Storage(tape, 4 * largest, "update") for _ in range(2)]
            del temporaries
            return
        if behaviour.optimizer not in {"adamw", "sgd", "sgd_momentum"} or behaviour.optimizer_kernel == "fused":
            return
        if behaviour.optimizer_kernel == "foreach":
            if behaviour.optimizer != "adamw":
                return
            roots = [Storage(tape, leaf.word * -(-leaf.count // self.shards), "root of second moment") for leaf in self.leaves]
            del roots
            return
        for leaf in self.leaves:
            root = Storage(tape, leaf.word * -(-leaf.count // self.shards), "root of second moment")
            del root


def state_sizes(count: int, word: int, behaviour: Behaviour, *, table: bool = False) -> list[int]:
    """Bytes of each state tensor of a parameter of ``count`` numbers of ``word`` bytes; ``table``: of an embedding."""
    kind = behaviour.optimizer
    if kind == "adafactor":
        return list(_factored(count))
    number = STATES[kind]
    eight = kind in {"adamw_8bit", "lion_8bit"}
    if eight and count >= SMALLEST_8BIT and not (table and behaviour.embeddings_32bit):
        sizes, scales = [count] * number, [4 * -(-count // SCALE_BLOCK)] * number
    elif eight or kind == "adamw_32bit":
        sizes, scales = [4 * count] * number, []
    else:
        sizes, scales = [word * count] * number, []
    if behaviour.paged and count >= SMALLEST_PAGED:
        sizes = []
    counter = [4] if kind == "adamw" and behaviour.optimizer_kernel == "fused" else []
    return [*sizes, *scales, *counter]


def _factored(count: int) -> tuple[int, ...]:
    """Rows and columns of a square-ish matrix, fp32: the true shape would change this by far less than the error bar."""
    side = max(1, int(count**0.5))
    return (4 * side, 4 * -(-count // side))
