"""Several devices: FSDP2's gathered layers and reduced gradients, DDP's buckets, NCCL's buffers. Sizes only.

Source: torch 2.13 distributed/fsdp/_fully_shard. A layer is gathered into one buffer and copied out into its parameters
(_fsdp_collectives.py foreach_all_gather, foreach_all_gather_copy_out). In the forward pass the buffer stays until the next
layer was copied out (_fsdp_param_group.py wait_for_unshard, AllGatherState), the last one until the root's forward pass
ends (_fsdp_state.py _post_forward). In the backward pass the group below is fetched while one runs (_backward_prefetch; the
root's turn comes before the loss's), and stays in its buffer until its own turn. Gradients are copied into one fp32 buffer,
whose sum's shard is kept (foreach_reduce); the buffer stays until the next group reduces (post_backward,
ReduceScatterState). The root group (embeddings, final norm, head) is whole from the forward to the end of the backward pass
(_lazy_init), where it and layers whose input has no gradient are reduced (_root_post_backward_final_callback).
``tests/trainer/test_memory_sharded.py`` traces the real thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cloudtune.memory.autograd import Leaf
from cloudtune.memory.inventory import Layer, Trained, stored
from cloudtune.memory.ops import Weight
from cloudtune.memory.tape import Storage, Tape
from cloudtune.recipe.method import is_full
from cloudtune.units import MIB

# One communicator's buffers and kernels per GPU: a class value, NCCL issues 864 and 986 name 0.4 to 1.6 GB.
NCCL_BYTES = 512 * MIB
# Streams of FSDP 1 with memory of their own, beside the one that computes (torch 2.2 _runtime_utils.py): _unshard makes whole layers
# in the unshard stream, _post_backward_hook the gradients' shards in the post-backward stream. FSDP2 has such streams too
# (_fsdp_collectives.py: all_gather_copy_in_stream, reduce_scatter_stream). What they cache is not counted: torch gives most of it back
# before memory runs out, and the error bar of several GPUs holds the rest (tests/unit/test_memory_estimate.py, docs/memory.md).
GATHERING, REDUCING = 1, 2


def communication_bytes(workers: int) -> int:
    """Outside torch's allocator, per GPU."""
    return NCCL_BYTES if workers > 1 else 0


def gradient_buckets(tape: Tape, leaves: Iterable[Leaf]) -> Storage:
    """DDP's buckets; with gradient_as_bucket_view the gradients themselves lie in them, so only the padding is extra."""
    tape.kind = "communication"
    count = sum(1 for _ in leaves)
    return Storage(tape, max(512, 16 * count), "bucket padding")


class Sharding:
    """What one of ``shards`` devices holds besides its shards."""

    __slots__ = ("behind", "fetched", "gathered", "job", "reducing", "root", "shards", "tape")

    def __init__(self, tape: Tape, job: Any) -> None:
        self.tape = tape
        self.job = job
        if not self._copies:
            tape.streams |= {"gathered layer": GATHERING, "gradient shards": REDUCING}
        self.root: list[Storage] = []
        self.gathered: dict[int, Storage] = {}
        """Whole layers."""
        self.fetched: dict[int, Storage | None] = {}
        """Layers on their way, in their all-gather buffers."""
        self.behind: Storage | None = None
        """The last all-gather buffer of the forward pass: freed when the next one was copied out (AllGatherState)."""
        self.reducing: Storage | None = None
        """The last reduce-scatter buffer: freed before the next one is made (ReduceScatterState)."""
        self.shards: dict[int, Storage] = {}
        """Gradient shards of each group; views of one buffer (foreach_reduce's as_strided)."""

    def gather(self, layer: Layer) -> Storage:
        """A layer whole, for its forward pass."""
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        size = layer_bytes(layer, self.job)
        buffer = self._fetch(size, cast_bytes(layer, self.job))
        self.behind = None
        whole = Storage(self.tape, size, "gathered layer")
        self.behind = buffer
        self.tape.kind = kind
        return whole

    def gather_root(self, ends: Mapping[str, Weight]) -> None:
        """Embeddings, norm and head, each once."""
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        word = self.job.behaviour.compute_word
        every = list({id(weight): weight for weight in ends.values()}.values())
        count = sum(weight.count for weight in every)
        buffer = self._fetch(count * word, count * word if self._casts else 0)
        names = [f"gathered {weight.name}" for weight in every]
        if not self._copies:
            self.tape.streams |= dict.fromkeys(names, GATHERING)
        self.root = [Storage(self.tape, weight.count * word, name) for weight, name in zip(every, names, strict=True)]
        self.behind = buffer
        self.tape.kind = kind

    @property
    def _copies(self) -> bool:
        """Whether parameters are copied out of the gathered buffer (FSDP2), not computed in it (FSDP 1)."""
        return bool(self.job.behaviour.copy_out)

    @property
    def _casts(self) -> bool:
        """Whether the base's shards are wider than what is gathered: full training's masters."""
        behaviour = self.job.behaviour
        return is_full(self.job.method) and bool(behaviour.full_word != behaviour.compute_word)

    def _fetch(self, size: int, cast: int) -> Storage | None:
        """The all-gather buffer; a copy of the own shards in the narrow type lives while it is filled."""
        if not self._copies:
            return None
        narrow = Storage(self.tape, -(-cast // self.job.shards), "narrow copy of shards")
        buffer = Storage(self.tape, size, "all-gather buffer")
        del narrow
        return buffer

    def begin_backward(self, layers: list[Layer]) -> None:
        """The forward pass is over; the root's hook fetches the last layer before the loss's backward pass."""
        self.behind = None
        if self._copies:
            self._prefetch(layers, len(layers) - 1)

    def enter_backward(self, layers: list[Layer], index: int) -> None:
        """Layer ``index`` whole out of its buffer, and the one below fetched."""
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        if index not in self.gathered:
            self.gathered[index] = Storage(self.tape, layer_bytes(layers[index], self.job), "gathered layer")
        self.fetched.pop(index, None)
        self.tape.kind = kind
        self._prefetch(layers, index - 1)

    def _prefetch(self, layers: list[Layer], index: int) -> None:
        if index < 0:
            return
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        size = layer_bytes(layers[index], self.job)
        if self._copies:
            self.fetched[index] = self._fetch(size, cast_bytes(layers[index], self.job))
        else:
            self.gathered[index] = Storage(self.tape, size, "gathered layer")
        self.tape.kind = kind

    def leave_backward(self, layers: list[Layer], index: int) -> None:
        """Layer ``index`` is done: free it, reduce its gradients."""
        self.gathered.pop(index, None)
        self._reduce(index, leaves_of(layers[index]))

    def finish(self, layers: list[Layer], trained: Trained) -> None:
        """The end of the backward pass: the root group is freed and reduced, then layers whose input had no gradient."""
        self.root = []
        inside = {id(leaf) for layer in layers for leaf in leaves_of(layer)}
        self._reduce(-1, [leaf for leaves, _ in trained.groups for leaf in leaves if id(leaf) not in inside])
        for index in sorted(self.gathered):
            self.leave_backward(layers, index)
        self.gathered.clear()
        self.fetched.clear()
        self.reducing = None

    def drop_gradients(self) -> None:
        """zero_grad."""
        self.shards.clear()

    def _reduce(self, group: int, leaves: list[Leaf]) -> None:
        """Gradients of one group into one buffer, their sum's shard out of it; a shard that is there already is added to."""
        ready = [leaf for leaf in leaves if leaf.grad is not None]
        self.reducing = None
        if not ready:
            return
        kind, self.tape.kind = self.tape.kind, "communication"
        count, word = sum(leaf.count for leaf in ready), self.job.behaviour.reduce_word
        buffer = Storage(self.tape, count * word, "reduce-scatter buffer")
        for leaf in ready:
            leaf.grad = None
        self.tape.kind = "gradients"
        shard = Storage(self.tape, -(-count // self.job.shards) * word, "gradient shards")
        if group not in self.shards and not self.job.offload:
            self.shards[group] = shard
        del shard
        if self._copies:
            self.reducing = buffer
        del buffer
        self.tape.kind = kind


def cast_bytes(layer: Layer, job: Any) -> int:
    """Of a gathered layer, what is narrowed on the way: full training's masters, and adapters."""
    behaviour = job.behaviour
    if is_full(job.method):
        return layer_bytes(layer, job) if behaviour.full_word != behaviour.compute_word else 0
    if behaviour.adapter_word == behaviour.compute_word:
        return 0
    return _adapter_count(layer) * int(behaviour.compute_word)


def layer_bytes(layer: Layer, job: object) -> int:
    """A whole layer in the type it is communicated in: packed weights as they are, adapters in the compute type."""
    behaviour, method = job.behaviour, job.method  # type: ignore[attr-defined]
    total = 0
    for tensor in layer.block.tensors:
        form = stored(tensor, "", method, behaviour, "-")
        first = form.pieces[0][1]
        total += first if form.source_bytes else tensor.numel * behaviour.compute_word
    return total + _adapter_count(layer) * int(behaviour.compute_word)


def _adapter_count(layer: Layer) -> int:
    adapters = [linear.adapter for linear in layer.linear.values() if linear.adapter is not None]
    adapters += layer.expert_adapters.values()
    return sum(weight.count for adapter in adapters for weight in (adapter.down, adapter.up, adapter.magnitude) if weight is not None)


def leaves_of(layer: Layer) -> list[Leaf]:
    """All trained parameters of a layer."""
    weights: list[Weight | None] = []
    for linear in layer.linear.values():
        weights += [linear.weight, linear.bias]
        if linear.adapter is not None:
            weights += [linear.adapter.down, linear.adapter.up, linear.adapter.magnitude]
    for pair in layer.norms.values():
        weights += list(pair)
    weights += list(layer.experts.values())
    for adapter in layer.expert_adapters.values():
        weights += [adapter.down, adapter.up]
    return [weight.leaf for weight in weights if weight is not None and weight.leaf is not None]
