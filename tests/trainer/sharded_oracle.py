"""The oracle for sharded training: torch's own FSDP2 around the real model, under FakeTensorMode with a process group that only pretends.

One process plays one of several workers: sizes are right, no number is computed, nothing is sent. FSDP gives memory back
by resizing storages, so live bytes are summed anew after every operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.trainer.memory_oracle import as_on_cuda, one_step


class ResizedWatch(TorchDispatchMode):
    """Sum of live storages at their present size, each rounded up to 512 bytes, and its highest value."""

    def __init__(self, *, detailed: bool = False) -> None:
        super().__init__()
        self.refs: dict[int, Any] = {}
        self.made_by: dict[int, str] = {}
        self.peak = 0
        self.detailed = detailed
        self.top: dict[str, int] = {}

    def note(self, tensor: torch.Tensor, name: str) -> bool:
        """Whether its storage is new."""
        if hasattr(tensor, "_local_tensor"):
            tensor = tensor._local_tensor
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.refs:
            return False
        self.refs[key] = weakref.ref(storage, lambda _ref, key=key: (self.refs.pop(key), self.made_by.pop(key)))
        self.made_by[key] = name
        return True

    def look(self) -> None:
        """Compare what is live now with the peak."""
        sizes = {key: -(-storage.nbytes() // 512) * 512 for key, ref in self.refs.items() if (storage := ref()) is not None}
        if (live := sum(sizes.values())) > self.peak:
            self.peak = live
            if self.detailed:
                self.top = {}
                for key, size in sizes.items():
                    self.top[f"{self.made_by[key]} {size}"] = self.top.get(f"{self.made_by[key]} {size}", 0) + size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        fresh = [self.note(leaf, str(func)) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if any(fresh) or func.namespace == "fsdp":  # what FSDP resized, it fills with operations of its own
            self.look()
        return out


@contextmanager
def states_as_attributes() -> Iterator[None]:
    """A 4-bit layer finds its state on the gathered weight. bitsandbytes would make a tensor of its own class for that, out of
    the same storage, which a fake tensor does not allow."""
    import bitsandbytes.nn.modules as layers

    saved = layers.fix_4bit_weight_quant_state_from_module
    layers.fix_4bit_weight_quant_state_from_module = lambda module: setattr(module.weight, "quant_state", module.quant_state)
    try:
        yield
    finally:
        layers.fix_4bit_weight_quant_state_from_module = saved


@contextmanager
def pretended_workers(count: int) -> Iterator[Any]:
    """A process group of ``count`` workers in which this process is alone."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield distributed.init_device_mesh("cpu", (count,))  # reads values, so outside FakeTensorMode
    finally:
        distributed.destroy_process_group()


def trace(
    build: Callable[[], torch.nn.Module],
    wrap: Callable[[torch.nn.Module], torch.nn.Module],
    step: Callable[[torch.nn.Module], torch.Tensor],
    *,
    finish: Callable[[torch.nn.Module], None],
    narrow: torch.dtype | None,
    workers: int,
    accumulation: int = 1,
    detailed: bool = False,
) -> ResizedWatch:
    """Build on meta, make it fake, shard it as the trainer does, run two optimizer steps."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from cloudtune_trainer.sharding import layers_of

    with torch.device("meta"):
        model = build()
    watch = ResizedWatch(detailed=detailed)
    mixed = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None, cast_forward_inputs=False)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with pretended_workers(workers) as mesh, fake, as_on_cuda(autocast=narrow is not None), states_as_attributes():
        finish(model)
        root = wrap(model)
        for layer in layers_of(root):
            fully_shard(layer, mesh=mesh, mp_policy=mixed)
        fully_shard(root, mesh=mesh, mp_policy=mixed)
        root.train()
        with watch:
            for what in (*root.parameters(), *root.buffers()):
                watch.note(what, "resident")
            for module in root.modules():
                for part in _state_parts(getattr(module, "quant_state", None)):
                    watch.note(part, "resident")
            engine = torch.optim.AdamW([weight for weight in root.parameters() if weight.requires_grad], fused=True)
            for _ in range(2):
                for _ in range(accumulation - 1):
                    half_step(root, step, narrow=narrow)
                one_step(root, step, engine, autocast=narrow is not None)
    return watch


def half_step(model: torch.nn.Module, step: Callable[[torch.nn.Module], torch.Tensor], *, narrow: torch.dtype | None) -> None:
    """Forward and backward pass of a micro batch that is not the last."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow is not None):
        loss = step(model)
    loss.backward()


def _state_parts(state: Any) -> list[torch.Tensor]:
    parts = []
    while state is not None:
        parts += [part for part in (state.absmax, state.code, state.offset) if part is not None]
        state = state.state2
    return parts
