"""A model of torch's autograd engine: which tensors a backward pass keeps, makes and drops, and in what order.

Only sizes and lifetimes are modelled, no numbers. The rules are those of torch 2.x (torch/csrc/autograd/engine.cpp,
input_buffer.cpp, functions/accumulate_grad.cpp and torch/utils/checkpoint.py):

* nodes run from the youngest to the oldest once all their consumers have run; gradients of leaves are stored at once;
* a node's saved tensors live until it has run; the gradient that came in lives until then too;
* a second gradient for the same place is added in place unless somebody else holds the first;
* a checkpointed piece keeps its input only; its first node to run computes the piece again, up to the last tensor
  that is needed (non-reentrant), or the whole piece in a graph of its own (reentrant).
"""

from __future__ import annotations

import contextlib
import heapq
import sys
from collections.abc import Callable
from typing import Any

from cloudtune.memory.tape import Storage, Tape

Saved = tuple[Any, ...]
FIRST = 1 << 60  # leaves run before every other node
LT_WORKSPACE = 1 << 20
WORKSPACE = "cuBLAS workspace"


class Node:
    """One step of the backward pass. ``parents[i]`` receives the i-th gradient that ``function`` returns."""

    __slots__ = ("extra", "function", "parents", "saved", "sequence")

    def __init__(self, sequence: int, parents: tuple[Node | None, ...], function: Backward, saved: Any, extra: Any) -> None:
        self.sequence = sequence
        self.parents = parents
        self.function = function
        self.saved = saved
        self.extra = extra


class Value:
    """A tensor: ``count`` elements of ``word`` bytes in ``store``; ``node`` is None when no gradient flows through it."""

    __slots__ = ("count", "node", "store", "word")

    def __init__(self, store: Storage | None, count: int, word: int, node: Node | None = None) -> None:
        self.store = store
        self.count = count
        self.word = word
        self.node = node

    @property
    def bytes(self) -> int:
        return self.count * self.word

    def view(self, node: Node | None = None) -> Value:
        """The same memory under another name."""
        return Value(self.store, self.count, self.word, node)


Backward = Callable[["Run", Saved, Value, Node], tuple[Value | None, ...]]


class Leaf(Node):
    """The end of the line: a parameter or an input that wants a gradient. Holds that gradient in ``grad``."""

    __slots__ = ("count", "grad", "name", "ready", "table", "word")

    def __init__(self, name: str, count: int, word: int, owner: Storage | None = None) -> None:
        # torch's AccumulateGrad holds the tensor that it belongs to
        super().__init__(FIRST, (), _nothing, owner, None)
        self.name = name
        self.count = count
        self.word = word
        self.grad: Value | None = None
        self.ready: Callable[[Leaf], None] | None = None
        self.table = False
        """An embedding table."""


def _nothing(_run: Run, _saved: Saved, _grad: Value, _node: Node) -> tuple[Value | None, ...]:
    return ()


class Gather(Node):
    """A node with several outputs: it runs when every output's gradient has come, on all of them at once."""

    __slots__ = ()


class StopRecompute(Exception):
    """All tensors that the backward pass needs are there again."""


class Frame:
    """A checkpointed piece: what to run again and on what, and the tensors that running it again brought back."""

    __slots__ = ("count", "function", "inputs", "recomputed")

    def __init__(self, function: Callable[[Value], Value], inputs: Value) -> None:
        self.function = function
        self.inputs = inputs
        self.count = 0
        self.recomputed: list[Saved | None] | None = None


class Packed:
    """A place holder for saved tensors that a frame will compute again."""

    __slots__ = ("frame", "index")

    def __init__(self, frame: Frame, index: int) -> None:
        self.frame = frame
        self.index = index


class Run:
    """One process's run: the tape, whether gradients are recorded, and the checkpoint at work."""

    __slots__ = (
        "autocast",
        "casts",
        "cuda",
        "frame",
        "grad_enabled",
        "half",
        "lt_kept",
        "lt_workspaces",
        "recording",
        "sequence",
        "softmax_keeps_input",
        "stop_at",
        "sums_in_place",
        "tape",
        "thread",
        "workspace_bytes",
        "workspaces",
    )

    def __init__(self, tape: Tape, workspace_bytes: int = 0, *, cuda: bool = True) -> None:
        self.tape = tape
        self.cuda = cuda
        self.sums_in_place = True
        """False under a FakeTensor trace, whose tensors torch never adds in place."""
        self.half = False
        """The 16-bit type is float16, not bfloat16."""
        self.autocast = 0
        """16-bit word that products are brought to; 0 = no autocast."""
        self.grad_enabled = True
        self.frame: Frame | None = None
        self.recording: list[Saved | None] | None = None
        self.stop_at = 0
        self.sequence = 0
        self.thread = "forward"
        self.workspace_bytes = workspace_bytes
        self.workspaces: dict[str, Storage] = {}
        self.lt_kept = True
        """cuBLASLt's workspace is kept per thread (torch from 2.7 on), not made for each call."""
        self.lt_workspaces: dict[str, Storage] = {}
        self.softmax_keeps_input = False
        """torch before 1.11: the gradient of softmax asked for its input's type through the input itself."""
        self.casts: dict[str, Value] = {}
        """What autocast keeps until its outermost region ends."""

    def new(self, count: int, word: int, name: str) -> Value:
        """A fresh tensor."""
        return Value(Storage(self.tape, count * word, name), count, word)

    def like(self, value: Value, name: str) -> Value:
        """A fresh tensor of the same size."""
        return Value(Storage(self.tape, value.count * value.word, name), value.count, value.word)

    def kept(self, count: int, word: int, name: str) -> Value:
        """A fresh tensor that a parameter keeps as its gradient."""
        kind, self.tape.kind = self.tape.kind, "gradients"
        value = self.new(count, word, name)
        self.tape.kind = kind
        return value

    def save(self, *values: Value | None) -> Any:
        """Keep ``values`` for the backward pass; call it where the real operation packs its saved tensors."""
        if self.frame is not None:
            packed = Packed(self.frame, self.frame.count)
            self.frame.count += 1
            return packed
        if self.recording is not None:
            # detached, so that the graph of the recomputation can go as soon as it has ended
            self.recording.append(tuple(value.view() if value is not None else None for value in values))
            if len(self.recording) == self.stop_at:
                raise StopRecompute
        return values

    def link(self, out: Value, parents: tuple[Node | None, ...], function: Backward, saved: Any = (), extra: Any = None) -> Value:
        """Record how ``out`` was made."""
        self.sequence += 1
        out.node = Node(self.sequence, parents, function, saved, extra)
        return out

    def matrix_product(self) -> Storage | None:
        """The first product of each thread makes cuBLAS take its workspace, which it keeps. Nothing else to hold."""
        if self.workspace_bytes and self.thread not in self.workspaces:
            kind, self.tape.kind = self.tape.kind, "workspaces"
            self.workspaces[self.thread] = Storage(self.tape, self.workspace_bytes, WORKSPACE)
            self.tape.kind = kind
        return None

    def biased_product(self) -> Storage | None:
        """A product with a bias goes through cuBLASLt, which has 1 MiB of its own (aten CUDABlas.cpp, CublasHandlePool.cpp).

        Hold what is returned until the result exists.
        """
        self.matrix_product()
        if not self.workspace_bytes:
            return None
        kind, self.tape.kind = self.tape.kind, "workspaces"
        if not self.lt_kept:
            scratch = Storage(self.tape, LT_WORKSPACE, "cuBLASLt workspace")
        elif self.thread not in self.lt_workspaces:
            scratch = self.lt_workspaces[self.thread] = Storage(self.tape, LT_WORKSPACE, "cuBLASLt workspace")
        else:
            scratch = self.lt_workspaces[self.thread]
        self.tape.kind = kind
        return scratch

    def kept_workspaces(self) -> list[int]:
        """The ids of what the libraries have taken once and for all, in order."""
        return sorted(storage.ident for storage in (*self.workspaces.values(), *self.lt_workspaces.values()))

    def checkpoint(self, function: Callable[[Value], Value], inputs: Value, *, reentrant: bool) -> Value:
        """Run ``function`` keeping only its input."""
        if reentrant:
            self.grad_enabled = False
            out = function(inputs)
            self.grad_enabled = True
            # the node must hold the input, not the whole frame of the caller
            return self.link(out, (inputs.node,), _reentrant, (inputs,), function)
        outer, self.frame = self.frame, Frame(function, inputs)
        out = function(inputs)
        self.frame = outer
        return out

    def backward(self, root: Node, grad: Value) -> None:
        """Run the backward pass from ``root``."""
        outer, self.thread = self.thread, "backward"
        waiting = _dependencies(root)
        buffers: dict[Node, Any] = {root: grad}
        del grad
        turn = 0  # of leaves, which are all as young, the one that was ready first runs first
        heap = [(-root.sequence, turn, root)]
        while heap:
            node = heapq.heappop(heap)[2]
            for parent in self._step(node, buffers):
                waiting[parent] -= 1
                if not waiting[parent]:
                    turn += 1
                    heapq.heappush(heap, (-parent.sequence, turn, parent))
        self.thread = outer

    def _step(self, node: Node, buffers: dict[Node, Any]) -> list[Node]:
        """Run one node and hand its gradients on; the parents that it fed."""
        grad = buffers.pop(node)
        if isinstance(node, Leaf):
            _accumulate(node, grad)
            return []
        saved = self._unpack(node.saved)
        node.saved = None
        grads = node.function(self, saved, grad, node)
        del saved, grad
        fed: list[Node] = []
        for parent, piece in zip(node.parents, grads, strict=True):
            if parent is None:
                continue
            fed.append(parent)
            if piece is None:
                continue
            held = buffers.get(parent)
            if isinstance(parent, Gather):
                buffers.setdefault(parent, []).append(piece)
            elif held is None:
                buffers[parent] = piece
            elif _shared(held) or not self.sums_in_place:
                del held
                total = self.like(piece, "sum of gradients")
                buffers[parent] = total
        return fed

    def _unpack(self, saved: Any) -> Saved:
        if not isinstance(saved, Packed):
            return saved  # type: ignore[no-any-return]
        frame = saved.frame
        if frame.recomputed is None:
            self._recompute(frame)
        assert frame.recomputed is not None  # noqa: S101
        values = frame.recomputed[saved.index]
        frame.recomputed[saved.index] = None
        assert values is not None  # noqa: S101
        return values

    def _recompute(self, frame: Frame) -> None:
        outer = self.recording, self.stop_at, self.frame
        self.recording, self.stop_at, self.frame = [], frame.count, None
        # the recomputation starts from a detached copy of the input that still wants gradients
        start = frame.inputs.view(Leaf("checkpoint input", 0, 0))
        with contextlib.suppress(StopRecompute):
            frame.function(start)
        self.casts.clear()
        frame.recomputed = self.recording
        self.recording, self.stop_at, self.frame = outer


def _reentrant(run: Run, saved: Saved, grad: Value, node: Node) -> tuple[Value | None, ...]:
    """Compute the piece again in a graph of its own, then run that graph."""
    (inputs,) = saved
    leaf = Leaf("checkpoint input", inputs.count, inputs.word)
    outer = run.thread
    again: Callable[[Value], Value] = node.extra
    out = again(inputs.view(leaf))
    run.casts.clear()
    assert out.node is not None  # noqa: S101 - the piece's input requires a gradient
    run.backward(out.node, grad.view())
    run.thread = outer
    return (leaf.grad,)


def _accumulate(leaf: Leaf, grad: Value) -> None:
    """The leaf takes the gradient over, or adds it to the one that it has."""
    if leaf.grad is None and leaf.count:
        leaf.grad = grad
    if leaf.ready is not None:
        leaf.ready(leaf)


def _dependencies(root: Node) -> dict[Node, int]:
    """How many gradients every node will receive."""
    counts: dict[Node, int] = {}
    stack = [root]
    while stack:
        for parent in stack.pop().parents:
            if parent is None:
                continue
            if parent in counts:
                counts[parent] += 1
            else:
                counts[parent] = 1
                stack.append(parent)
    return counts


def _references(held: Value) -> int:
    return sys.getrefcount(held) + sys.getrefcount(held.store)


def _probe() -> int:
    """References of a gradient that only a buffer holds, counted the way ``_shared`` counts them."""
    buffers = {0: Value(Storage(Tape(), 0, ""), 0, 0)}
    held = buffers.get(0)
    assert held is not None  # noqa: S101
    return _references(held)


_ALONE = _probe()


def _shared(held: Value) -> bool:
    """Whether somebody besides the buffer holds this gradient (the test that torch makes before adding in place)."""
    return _references(held) > _ALONE + 1
