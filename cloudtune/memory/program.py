"""The training program as a tape: load, two steps of forward, loss, backward and optimizer. Sizes only, no torch.

Rows of identical layers are folded while the tape is made and written out again at the end (``memory/folding.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cloudtune.memory import loading, stepping
from cloudtune.memory.autograd import Leaf, Node, Run, Saved, Value
from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.context import Context
from cloudtune.memory.decoder import decoder_layer
from cloudtune.memory.encoder import encoder_layer, encoder_stem, head_states
from cloudtune.memory.folding import LEAST, Fold, Span, unfold
from cloudtune.memory.inventory import (
    Layer,
    Trained,
    build_layer,
    is_saved,
    linear_layer,
    output_name,
    refuse_unreckoned,
    weight_word,
)
from cloudtune.memory.lora import Casting, LinearLayer
from cloudtune.memory.loss import KIND, chunked_loss, classifier_loss, full_loss
from cloudtune.memory.newtokens import look_up
from cloudtune.memory.ops import Grads, Weight, embedding
from cloudtune.memory.optimizers import Optimizer
from cloudtune.memory.parallel import Sharding, gradient_buckets
from cloudtune.memory.positions import attention_mask, rotary
from cloudtune.memory.tape import Storage, Tape
from cloudtune.models.shape import Block, ModelShape, Tensor
from cloudtune.recipe.method import is_full
from cloudtune.units import MIB

if TYPE_CHECKING:
    from cloudtune.recipe.method import Method


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a tape depends on. ``capability`` (0, 0) = CPU. ``shards`` > 1: FSDP over that many devices."""

    shape: ModelShape
    method: Method
    behaviour: Behaviour
    batch: int
    length: int
    capability: tuple[int, int] = (8, 0)
    shards: int = 1
    replicas: int = 1
    """DDP: workers that hold everything and exchange gradients."""
    offload: bool = False
    """FSDP with shards, gradients and optimizer on the host."""
    fold: bool = True
    traced: bool = False
    """Only what a FakeTensor trace on the CPU shows: for the comparison with the oracle."""
    steps: int = 2
    task: Literal["causal_lm", "masked_lm", "classification"] = "causal_lm"


# families whose local layers rotate by angles of their own
LOCAL_ROPE = frozenset({"gemma3_text", "gemma4_text", "modernbert"})


def merged(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Blocks whose layers allocate alike, put together: a local window changes no size."""
    groups: dict[object, list[Block]] = {}
    for block in blocks:
        attention = replace(block.attention, window=None) if block.attention is not None else None
        groups.setdefault((block.tensors, attention, block.mlp), []).append(block)
    return tuple(replace(group[0], layers=tuple(sorted(index for block in group for index in block.layers))) for group in groups.values())


def workspace_bytes(capability: tuple[int, int]) -> int:
    """cuBLAS workspace per handle: 32 MiB from Hopper on, else 8.125 MiB (aten CUDABlas, CUBLAS_WORKSPACE_CONFIG unset)."""
    if capability == (0, 0):
        return 0
    return 32 * MIB if capability[0] >= 9 else 8 * MIB + 128 * 1024


class Program:
    """One run of a job; ``tape`` is complete after ``play``."""

    def __init__(self, job: Job, near: int = 1) -> None:
        self.job = job
        self.near = near
        """How many layers of a folded row are run before and after the one that stands for the others."""
        self.tape = Tape()
        self.run = Run(self.tape, workspace_bytes(job.capability), cuda=job.capability != (0, 0))
        self.run.sums_in_place = not job.traced
        self.run.half = job.behaviour.half
        self.run.softmax_keeps_input = job.behaviour.torch_version < (1, 11)
        self.run.lt_kept = job.behaviour.torch_version >= (2, 7)
        # sharded weights are gathered in the compute type, their shards, gradients and moments stay as they are stored
        stored = job.behaviour.full_word if is_full(job.method) else job.behaviour.adapter_word
        self.trained = Trained(stored_word=stored if job.shards > 1 else 0)
        word = job.behaviour.compute_word
        self.computing = replace(job.behaviour, full_word=word, adapter_word=word) if job.shards > 1 else job.behaviour
        self.resident: list[Storage] = []
        self.layers: list[Layer] = []
        self.went: list[Span] = []
        self.returns: dict[int, tuple[int, int]] = {}
        self.sharding = Sharding(self.tape, job) if job.shards > 1 else None
        self.folds: list[Fold] = []
        self.irregular = 0
        """Rows that cannot be folded with so few layers around them."""
        self.ends: dict[str, Weight] = {}
        self.end_layers: dict[str, LinearLayer] = {}
        self.copies: list[Leaf] = []
        self.new_rows: Weight | None = None
        self.held: Value | None = None

    def play(self) -> Tape:
        """Load, then the steps."""
        job = self.job
        self.tape.mark("load")
        self._build()
        self.resident = loading.load(self.tape, job.shape, job.method, job.behaviour, job.shards, offload=job.offload)
        self._load_adapters()
        if job.replicas > 1:
            self.resident.append(gradient_buckets(self.tape, self.trained.every))
        optimizer = Optimizer(self.tape, [] if job.offload else self.trained.every, job.behaviour, job.shards)
        first = self._first_step(optimizer)
        if not self.is_regular():
            return self._with_more_layers()
        for index in range(1, job.steps):
            if index == 1 and job.behaviour.peak_from == "second step":
                self.tape.command("reset_peak")
            again = stepping.repeat(self.tape, first) if job.fold else None
            if again is None:
                self._step(optimizer)
            else:
                self.folds += again
        self.tape.finish()
        if not self.is_regular():
            return self._with_more_layers()
        return unfold(self.tape, self.folds) if self.folds else self.tape

    def is_regular(self) -> bool:
        """Whether all rows can be folded, as far as the run has come."""
        return self.irregular == 0

    def _with_more_layers(self) -> Tape:
        """The run of the same job with two layers around those that are folded, or with none folded."""
        return Program(self.job, near=2).play() if self.near == 1 else Program(replace(self.job, fold=False)).play()

    # ---- building -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        job = self.job
        shape = job.shape
        full = is_full(job.method)
        refuse_unreckoned(shape, job.method)
        self.trained.open(1)
        for tensor in (*shape.stem, *shape.head):
            word = weight_word(job.method, self.computing, quantised=False)
            owner = tensor.tied_to or tensor.name
            if is_saved(tensor, job.method):
                self._build_copy(tensor, word)
                continue
            if owner in self.ends:
                self.ends[tensor.name] = self.ends[owner]
                continue
            leaf = self.trained.leaf(tensor.name, tensor.numel, word) if full else None
            if leaf is not None:
                leaf.table = tensor.kind in {"embedding", "position"}
            self.ends[tensor.name] = Weight(tensor.name, tensor.numel, word, leaf=leaf)
        self._build_ends()
        self._build_new_rows()
        for index, block, copies in self._rows():
            layer = build_layer(block, index, copies, shape, job.method, self.computing, self.trained)
            self.layers.append(layer)
        for index, layer in enumerate(self.layers):
            # no mark that is not needed: one before the first layer would hide that its gradient is that of the embeddings
            layer.near_fold = any(other.copies > 1 for other in self.layers[max(0, index - 2) : index + 1])

    def _build_copy(self, tensor: Tensor, word: int) -> None:
        """A module of modules_to_save runs as its trained copy, in the type of the original; peft widens adapters alone."""
        leaf = self.trained.leaf(tensor.name, tensor.numel, word)
        leaf.table = tensor.kind in {"embedding", "position"}
        self.copies.append(leaf)
        self.ends[tensor.name] = Weight(tensor.name, tensor.numel, word, leaf=leaf)

    def _build_new_rows(self) -> None:
        """trainable_tokens: the trained rows of the embedding table."""
        method, word = self.job.method, self.computing.adapter_word
        if not is_full(method) and method.trainable_tokens:
            count = len(method.trainable_tokens) * self.job.shape.hidden_size
            self.new_rows = Weight("new rows", count, word, leaf=self.trained.leaf("new rows", count, word))

    def _build_ends(self) -> None:
        """Linear layers of the head besides the output embedding; they may carry adapters."""
        job = self.job
        self.trained.open(1)
        for tensor in job.shape.head:
            if tensor.kind == "linear" and tensor.name != output_name(job.shape):
                self.end_layers[tensor.name] = linear_layer("", tensor, self.ends, job.method, self.computing, self.trained)

    def _rows(self) -> list[tuple[int, Block, int]]:
        """(index, block, layers it stands for) of the layers that run, in order; rows of identical layers are folded."""
        by_index = {index: block for block in merged(self.job.shape.blocks) for index in block.layers}
        rows: list[list[tuple[int, Block]]] = []
        for index in sorted(by_index):
            if rows and rows[-1][0][1] is by_index[index]:
                rows[-1].append((index, by_index[index]))
            else:
                rows.append([(index, by_index[index])])
        return [item for row in rows for item in self._folded(row)]

    def _folded(self, row: list[tuple[int, Block]]) -> list[tuple[int, Block, int]]:
        near = self.near
        if not self.job.fold or len(row) < LEAST + 2 * (near - 1):
            return [(index, block, 1) for index, block in row]
        kept = [*row[: near + 1], *row[-near:]]
        return [(index, block, len(row) - 2 * near if place == near else 1) for place, (index, block) in enumerate(kept)]

    def _load_adapters(self) -> None:
        job = self.job
        if is_full(job.method) or job.offload:
            return
        own = {id(leaf) for leaf in self.copies}
        sizes = [(leaf.name, -(-leaf.count // job.shards)) for leaf in self.trained.every if id(leaf) not in own]
        self.resident.extend(loading.adapters(self.tape, sizes, job.behaviour, job.method))
        self.tape.kind = "adapters"
        self.resident.extend(Storage(self.tape, leaf.count * leaf.word, f"trained copy of {leaf.name}") for leaf in self.copies)
        if self.new_rows is not None:
            self.resident.append(Storage(self.tape, self.new_rows.count * self.new_rows.word, "new rows as they were"))

    # ---- one step -----------------------------------------------------------------------------------------------------

    def _first_step(self, optimizer: Optimizer) -> stepping.Step:
        """Run it, and say where on the tape it lies."""
        start, ident, mark = len(self.tape.events), len(self.tape.names), len(self.tape.marks)
        self._step(optimizer)
        span = Span((start, len(self.tape.events)), (ident, len(self.tape.names)))
        return stepping.Step(span, tuple(self.tape.marks[mark:]), tuple(self.folds))

    def _step(self, optimizer: Optimizer) -> None:
        """One optimizer step; with accumulation, the second of its micro batches meets the gradients of the first."""
        behaviour = self.job.behaviour
        for _ in range(2 if behaviour.accumulation else 1):
            self._micro_step()
        self.tape.mark("optimizer")
        optimizer.step()
        if not behaviour.outputs_overlap:
            self.held = None
        if not behaviour.gradients_kept:
            for leaves, _ in self.trained.groups:
                for leaf in leaves:
                    leaf.grad = None
            if self.sharding is not None:
                self.sharding.drop_gradients()

    def _micro_step(self) -> None:
        job, tape = self.job, self.tape
        behaviour = job.behaviour
        tape.kind = "batch"
        batch = [Storage(tape, 8 * job.batch * job.length, name) for name in ("input ids", "labels")]
        tape.kind = "activations"
        tape.mark("forward")
        if self.sharding is not None:
            self.sharding.gather_root(self.ends)
        self.run.autocast = 2 if behaviour.autocast and behaviour.compute_word == 2 else 0
        loss, logits = self._forward()
        self.run.casts.clear()
        if behaviour.outputs_held:
            self.held = logits
        del logits
        tape.mark("backward")
        if self.sharding is not None:
            self.sharding.begin_backward(self.layers)
        root = loss.node
        assert root is not None  # noqa: S101
        tape.kind = KIND
        seed = self.run.new(1, 4, "loss gradient")
        self.run.backward(root, seed)
        del seed
        if self.sharding is not None:
            self.sharding.finish(self.layers, self.trained)
        self._note_folds()
        del loss, root, batch

    def _forward(self) -> tuple[Value, Value | None]:
        job, run, behaviour = self.job, self.run, self.job.behaviour
        shape = job.shape
        ctx = Context(run, shape, behaviour, self._casting(), job.batch, job.length, job.capability, ends=self.end_layers)
        value = self._stem(ctx)
        embeddings = value
        self._positions(ctx, value.word)
        self.went = []
        for index, layer in enumerate(self.layers):
            start = len(self.tape.events), len(self.tape.names)
            value = self._layer(ctx, layer, self._enter(index, value))
            self.went.append(Span((start[0], len(self.tape.events)), (start[1], len(self.tape.names))))
        value = self._last(value)
        del embeddings
        states = [value]
        del value
        return self._head(ctx, states)

    def _casting(self) -> Casting:
        return Casting(self.run.autocast, self.job.behaviour.compute_word)

    def _stem(self, ctx: Context) -> Value:
        if any(tensor.kind in {"position", "norm"} for tensor in self.job.shape.stem):
            return encoder_stem(ctx, self.ends)
        table = next(tensor for tensor in self.job.shape.stem if tensor.kind == "embedding")
        weight, width = self.ends[table.name], table.shape[1]
        if self.new_rows is not None:
            value = look_up(self.run, ctx.tokens, width, weight, self.new_rows)
        else:
            value = embedding(self.run, ctx.tokens, width, weight)
        if ctx.input_gradients and value.node is None:
            value.node = Leaf("embeddings", value.count, value.word, value.store)
        return value

    def _positions(self, ctx: Context, word: int) -> None:
        """The masks, then cos and sin of the rotary positions, all shared by every layer: the order of the models' forward()."""
        windows = {block.attention.window for block in self.job.shape.blocks if block.attention is not None}
        behaviour = ctx.behaviour
        if behaviour.attention == "eager" or (behaviour.padding_mask and behaviour.attention == "sdpa"):
            ctx.mask, *others = [attention_mask(ctx, word) for _ in windows]
            ctx.others += others
        if not any(tensor.kind == "position" for tensor in self.job.shape.stem):
            shapes = [block.attention for block in self.job.shape.blocks if block.attention is not None]
            width = max((shape.rope_dim or shape.head_dim for shape in shapes), default=0)
            ctx.cos, ctx.sin = rotary(ctx, width, word)
            if self.job.shape.model_type in LOCAL_ROPE and len(windows) > 1:
                ctx.others += rotary(ctx, width, word)

    def _layer(self, ctx: Context, layer: Layer, value: Value) -> Value:
        gathered = self.sharding.gather(layer) if self.sharding is not None else None
        try:
            return self._plain_layer(ctx, layer, value)
        finally:
            del gathered

    def _plain_layer(self, ctx: Context, layer: Layer, value: Value) -> Value:
        behaviour = self.job.behaviour
        one = decoder_layer if "mlp.gate_proj" in layer.linear or self.job.shape.family == "decoder" else encoder_layer
        if not behaviour.checkpointing:
            return one(ctx, layer, value)
        return self.run.checkpoint(lambda inputs: one(ctx, layer, inputs), value, reentrant=behaviour.reentrant)

    def _head(self, ctx: Context, states: list[Value]) -> tuple[Value, Value | None]:
        """Loss and logits; takes the hidden states out of ``states`` so that nobody else holds them."""
        shape = self.job.shape
        if self.job.task == "classification":
            return classifier_loss(ctx, states.pop())
        states.append(head_states(ctx, self.ends, states.pop()))
        self.tape.mark("loss")
        name = shape.output_embedding
        bias = self.ends.get(f"{name.rpartition('.')[0]}.bias")
        head = LinearLayer("head", shape.vocab_size, shape.hidden_size, self.ends[name], bias)
        if ctx.behaviour.loss == "chunked":
            return chunked_loss(ctx, head, states.pop()), None
        return full_loss(ctx, head, states)

    # ---- folding ------------------------------------------------------------------------------------------------------

    def _enter(self, index: int, value: Value) -> Value:
        """A mark in the graph before layer ``index``: its backward pass is over when this node runs."""
        wanted = self.layers[index].near_fold or self.sharding is not None
        if value.node is None or not self.run.grad_enabled or not wanted:
            return value
        return self.run.link(value.view(), (value.node,), self._leave, (), index)

    def _leave(self, _run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
        if self.sharding is not None:
            self.sharding.leave_backward(self.layers, node.extra)
        self.returns[node.extra] = (len(self.tape.events), len(self.tape.names))
        if self.sharding is not None and node.extra > 0:
            self.sharding.enter_backward(self.layers, node.extra - 1)
        return (grad.view(),)

    def _last(self, value: Value) -> Value:
        """From here on the backward pass is in the layers, not in the loss."""
        if value.node is None:
            return value
        return self.run.link(value.view(), (value.node,), self._leave_loss)

    def _leave_loss(self, _run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
        self.tape.kind = "activations"
        self.returns[len(self.layers)] = (len(self.tape.events), len(self.tape.names))
        if self.sharding is not None:
            self.sharding.enter_backward(self.layers, len(self.layers) - 1)
        return (grad.view(),)

    def _note_folds(self) -> None:
        """After a step: where the folded layers and their neighbours lie on the tape."""
        for index, layer in enumerate(self.layers):
            if layer.copies == 1:
                continue
            if not all(at in self.returns for at in (index, index + 1, index + 2)):  # no gradient comes through these layers
                self.irregular += 1
                continue
            fold = Fold(layer.copies - 1)
            fold.before, fold.forward, fold.following = (self._piece(self.went[at]) for at in (index - 1, index, index + 1))
            fold.after = self._returned(index + 1)
            fold.backward = self._returned(index)
            self.folds.append(fold)
            self.irregular += not fold.is_regular(self.tape)

    def _returned(self, index: int) -> Span:
        """The backward piece of a layer: from the end of its successor's to its own."""
        (start, first), (stop, last) = self.returns[index + 1], self.returns[index]
        return self._piece(Span((start, stop), (first, last)))

    def _piece(self, span: Span) -> Span:
        first, stop = span.ids
        return replace(span, once=tuple(ident for ident in self.run.kept_workspaces() if first <= ident < stop))


def tape_of(job: Job) -> Tape:
    """The whole tape of a job, all layers written out."""
    return Program(job).play()
