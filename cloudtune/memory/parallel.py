"""Several devices: FSDP2's gathered layers and reduced gradients, DDP's buckets, NCCL's buffers. Sizes only.

Source: torch 2.13 distributed/fsdp/_fully_shard (_fsdp_param_group.py, _fsdp_collectives.py): a layer is gathered into one flat
buffer, copied out into its parameters, and freed after its forward pass; in the backward pass the layer below is
gathered while one runs; gradients are copied into one flat buffer, reduced, and kept as shards. The root group
(embeddings, final norm, head) stays gathered from the forward to the end of the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cloudtune.memory.autograd import Leaf, Value
from cloudtune.memory.inventory import Layer, Trained, stored
from cloudtune.memory.ops import Weight
from cloudtune.memory.tape import Storage, Tape
from cloudtune.units import MIB

# One communicator's buffers and kernels per GPU: a class value, NCCL issues 864 and 986 name 0.4 to 1.6 GB.
NCCL_BYTES = 512 * MIB
REDUCE_WORD = 4  # gradients are reduced in fp32


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

    __slots__ = ("gathered", "job", "root", "tape")

    def __init__(self, tape: Tape, job: object) -> None:
        self.tape = tape
        self.job = job
        self.gathered: dict[int, Storage] = {}
        self.root: list[Storage] = []

    def gather(self, layer: Layer) -> Storage:
        """The layer's parameters whole, after a flat buffer of the same size."""
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        size = layer_bytes(layer, self.job)
        flat = Storage(self.tape, size, "all-gather buffer")
        whole = Storage(self.tape, size, "gathered layer")
        del flat
        self.tape.kind = kind
        return whole

    def gather_root(self, ends: Mapping[str, Weight]) -> None:
        """Embeddings, norm and head, each once."""
        kind, self.tape.kind = self.tape.kind, "gathered layers"
        word = self.job.behaviour.compute_word  # type: ignore[attr-defined]
        self.root = [
            Storage(self.tape, weight.count * word, f"gathered {weight.name}") for weight in {id(w): w for w in ends.values()}.values()
        ]
        self.tape.kind = kind

    def enter_backward(self, layers: list[Layer], index: int) -> None:
        """Gather layer ``index`` (unless it was prefetched) and the one below it."""
        for wanted in (index, index - 1):
            if wanted >= 0 and wanted not in self.gathered:
                self.gathered[wanted] = self.gather(layers[wanted])

    def leave_backward(self, layers: list[Layer], index: int) -> None:
        """Layer ``index`` is done: free it, reduce its gradients."""
        self.gathered.pop(index, None)
        self._reduce(leaves_of(layers[index]))

    def finish(self, trained: Trained) -> None:
        """The end of the backward pass: what was not reduced yet is, and the root group is freed."""
        self.gathered.clear()
        self.root = []
        self._reduce([leaf for leaves, _ in trained.groups for leaf in leaves])

    def _reduce(self, leaves: list[Leaf]) -> None:
        ready = [leaf for leaf in leaves if leaf.grad is not None and not leaf.reduced]
        if not ready:
            return
        kind, self.tape.kind = self.tape.kind, "communication"
        shards = self.job.shards  # type: ignore[attr-defined]
        flat = Storage(self.tape, sum(leaf.count for leaf in ready) * REDUCE_WORD, "reduce-scatter buffer")
        self.tape.kind = "gradients"
        for leaf in ready:
            count = 0 if self.job.offload else -(-leaf.count // shards)  # type: ignore[attr-defined]
            leaf.grad = Value(Storage(self.tape, count * leaf.word, f"gradient shard of {leaf.name}"), count, leaf.word)
            leaf.reduced = True
        del flat
        self.tape.kind = kind


def layer_bytes(layer: Layer, job: object) -> int:
    """A whole layer in the type it is communicated in: packed weights as they are, adapters in the compute type."""
    behaviour, method = job.behaviour, job.method  # type: ignore[attr-defined]
    total = 0
    for tensor in layer.block.tensors:
        form = stored(tensor, "", method, behaviour, "-")
        first = form.pieces[0][1]
        total += first if form.source_bytes else tensor.numel * behaviour.compute_word
    for linear in layer.linear.values():
        if linear.adapter is not None:
            total += (linear.adapter.down.count + linear.adapter.up.count) * behaviour.compute_word
    return total


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
