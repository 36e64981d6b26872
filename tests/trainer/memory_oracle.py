"""The oracle: the real model, peft and loss code run under FakeTensorMode, with every storage's life recorded.

No numbers are computed, so billions of parameters fit. What only CUDA kernels borrow inside themselves is not seen here;
those buffers are judged by measured runs. Everything runs as on the CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Watch(TorchDispatchMode):
    """Sum of live storages, each rounded up to 512 bytes, and its highest value."""

    live: int = 0
    peak: int = 0
    top: dict[str, int] = field(default_factory=dict)
    names: dict[int, tuple[str, int]] = field(default_factory=dict)
    detailed: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.refs: dict[int, Any] = {}

    def note(self, tensor: torch.Tensor, name: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.refs:
            return
        size = -(-storage.nbytes() // 512) * 512

        def gone(_ref: Any, key: int = key, size: int = size) -> None:
            self.live -= size
            self.names.pop(key, None)
            del self.refs[key]

        self.refs[key] = weakref.ref(storage, gone)
        self.names[key] = (name, size)
        self.live += size
        if self.live > self.peak:
            self.peak = self.live
            if self.detailed:
                self.top = {}
                for what, bytes_ in self.names.values():
                    self.top[f"{what} {bytes_}"] = self.top.get(f"{what} {bytes_}", 0) + bytes_

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf, str(func))
        return out


@dataclass(frozen=True)
class Traced:
    """Peak of the whole run in bytes, what was resident before the first step, and the peak's make-up."""

    peak: int
    resident: int
    top: dict[str, int]


@contextmanager
def as_on_cuda(*, autocast: bool) -> Iterator[None]:
    """Two questions answered as on CUDA: whether rows are packed (values are not known here), and whether autocast is on
    (peft asks for CUDA's)."""
    import transformers.masking_utils as masks

    saved = masks.find_packed_sequence_indices, torch.is_autocast_enabled
    masks.find_packed_sequence_indices = lambda *_: None
    if autocast:
        torch.is_autocast_enabled = lambda device_type="cpu": saved[1](device_type)  # type: ignore[assignment]
    try:
        yield
    finally:
        masks.find_packed_sequence_indices, torch.is_autocast_enabled = saved


def materialise(model: torch.nn.Module, word: torch.dtype | None = None) -> None:
    """Every meta parameter and buffer becomes a fake CPU tensor; ties stay ties. Call inside FakeTensorMode."""
    made: dict[int, torch.Tensor] = {}
    for path, module in model.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or type(parameter).__name__ in {"Params4bit", "Int8Params"}:
                continue
            if id(parameter) not in made:
                dtype = word if word is not None and parameter.dtype.is_floating_point else parameter.dtype
                if "lora_" in path or "trainable_tokens" in path:
                    dtype = parameter.dtype
                fresh = torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=parameter.requires_grad)
                made[id(parameter)] = fresh
            module._parameters[name] = made[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def pack(model: torch.nn.Module, *, nested: bool, word: torch.dtype) -> None:
    """Give every Linear4bit a packed fake weight with a hand-made quantisation state. Call inside FakeTensorMode."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    for module in model.modules():
        if not isinstance(module, bnb.nn.Linear4bit):
            continue
        count = module.in_features * module.out_features
        weight = torch.nn.Parameter(torch.empty(((count + 1) // 2, 1), dtype=torch.uint8), requires_grad=False)
        scales = -(-count // 64)
        code = torch.empty(16)
        state2, offset = None, None
        absmax: torch.Tensor = torch.empty(scales)
        if nested:
            absmax = torch.empty(scales, dtype=torch.uint8)
            state2 = QuantState(absmax=torch.empty(-(-scales // 256)), blocksize=256, code=torch.empty(256), dtype=torch.float32)
            offset = torch.empty(())
        weight.quant_state = QuantState(  # type: ignore[attr-defined]
            absmax=absmax,
            shape=torch.Size((module.out_features, module.in_features)),
            code=code,
            blocksize=64,
            quant_type="nf4",
            dtype=word,
            offset=offset,
            state2=state2,
        )
        weight.bnb_quantized = True  # type: ignore[attr-defined]
        module._parameters["weight"] = weight
        module.quant_state = weight.quant_state  # type: ignore[attr-defined]


def trace(
    build: Callable[[], torch.nn.Module],
    step: Callable[[torch.nn.Module], torch.Tensor],
    *,
    finish: Callable[[torch.nn.Module], None],
    optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    autocast: bool,
    steps: int = 2,
    detailed: bool = False,
) -> Traced:
    """Build on meta, make it fake, run ``steps`` steps, report the peak."""
    with torch.device("meta"):
        model = build()
    watch = Watch(detailed=detailed)
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_cuda(autocast=autocast):
        finish(model)
        model.train()
        with watch:
            for what in (*model.parameters(), *model.buffers()):
                watch.note(what, "resident")
                for extra in _quantised_parts(what):
                    watch.note(extra, "resident")
            resident = watch.live
            engine = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
            for _ in range(steps):
                one_step(model, step, engine, autocast=autocast)
    return Traced(watch.peak, resident, watch.top)


def _quantised_parts(parameter: torch.Tensor) -> list[torch.Tensor]:
    state = getattr(parameter, "quant_state", None)
    parts = []
    while state is not None:
        parts += [part for part in (state.absmax, state.code, state.offset) if part is not None]
        state = state.state2
    return parts


def one_step(
    model: torch.nn.Module, step: Callable[[torch.nn.Module], torch.Tensor], engine: torch.optim.Optimizer, *, autocast: bool
) -> None:
    """Forward, backward, update, in a function of its own so that no name outlives it."""
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        loss = step(model)
    loss.backward()
    engine.step()
    engine.zero_grad(set_to_none=True)
