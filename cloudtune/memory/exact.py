"""Exact mode: the model's own code traced under torch's FakeTensorMode, for architectures that have no template.

Needs torch, transformers, peft and bitsandbytes installed (the extra ``train``) and imports them only when called; computes no
numbers, so billions of parameters fit into a laptop. What only CUDA kernels borrow inside themselves is not seen, which
the error bar says. The trace takes seconds to a minute.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cloudtune.errors import UsageError
from cloudtune.memory.allocator import replay
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.memory.program import workspace_bytes
from cloudtune.memory.tape import Tape
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_full, is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.spec import LoraMethod, QloraMethod, Recipe

ERROR_BAR = 0.12
STEPS = 2


def exact_estimate(config: Mapping[str, Any], recipe: Recipe, layout: Layout, device: Device) -> Estimate:
    """Peak memory of one worker, from a trace of the model that ``config`` (a config.json) describes.

    Raises UsageError when the training libraries are missing, or the model cannot be built or traced.
    """
    return estimate_of(traced_tape(config, recipe, layout, device), device)


def estimate_of(tape: Tape, device: Device) -> Estimate:
    """The peak of a traced tape on a device; one trace serves every GPU."""
    result = replay(tape, expandable=True)
    extra = 2 * workspace_bytes(device.compute_capability)
    reserved = result.peak_reserved + extra
    peak = reserved + device.context_bytes
    parts = (
        MemoryPart(name="traced tensors", bytes=result.peak_allocated),
        MemoryPart(name="workspaces", bytes=extra),
        MemoryPart(name="allocator slack", bytes=result.peak_reserved - result.peak_allocated),
        MemoryPart(name="context", bytes=device.context_bytes),
    )
    return Estimate(
        peak_bytes=peak,
        allocated_bytes=result.peak_allocated + extra,
        reserved_bytes=reserved,
        context_bytes=device.context_bytes,
        error_bar=ERROR_BAR,
        low_bytes=math.floor(peak * (1 - ERROR_BAR)),
        high_bytes=math.ceil(peak * (1 + ERROR_BAR)),
        parts=parts,
        peak_phase="",
        evidence="traced from the model's own code; buffers inside CUDA kernels are not seen",
    )


def traced_tape(config: Mapping[str, Any], recipe: Recipe, layout: Layout, device: Device) -> Tape:
    """Allocations and frees of two training steps of the real model. Raises UsageError."""
    try:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves
    except ImportError as error:
        raise UsageError("exact mode needs the training libraries", hint="pip install 'cloudtune[train]'") from error
    word = torch.float32 if device.kind == "cpu" or recipe.model.dtype == "float32" else torch.bfloat16
    build = _builder(config, recipe, layout, word)
    tape, watched = Tape(), _Watched()

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        """Puts every new storage on the tape."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    watched.note(tape, leaf.untyped_storage(), str(func))
            return out

    try:
        with torch.device("meta"):
            model = build()
        with FakeTensorMode(allow_non_fake_inputs=True):
            _materialise(model, None if is_full(recipe.method) else word, recipe)
            model.train()
            tape.mark("load")
            for tensor in (*model.parameters(), *model.buffers()):
                for part in (tensor, *_quantised_parts(tensor)):
                    watched.note(tape, part.untyped_storage(), "resident")
            with Watch():
                _steps(model, recipe, layout, word)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        text = str(error).strip().split("\n")[0][:200]
        raise UsageError(f"this model cannot be traced: {text}", hint="point model.config at a known model of the same size") from error
    tape.finish()
    return tape


def _quantised_parts(parameter: Any) -> list[Any]:
    """Scales and codes that hang on a packed weight."""
    state, parts = getattr(parameter, "quant_state", None), []
    while state is not None:
        parts += [part for part in (state.absmax, state.code, state.offset) if part is not None]
        state = state.state2
    return parts


class _Watched:
    """Which storages are on the tape; each frees itself there when it dies."""

    def __init__(self) -> None:
        self.known: dict[int, weakref.ref[Any]] = {}

    def note(self, tape: Tape, storage: Any, name: str) -> None:
        key = id(storage)
        size = storage.nbytes()
        if key in self.known or not size:
            return
        ident = tape.alloc(size, name)

        def gone(_reference: Any) -> None:
            tape.events.append(~ident)
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)


def _builder(config: Mapping[str, Any], recipe: Recipe, layout: Layout, word: Any) -> Callable[[], Any]:
    """The model as the trainer makes it: quantised layers, adapters, checkpointing."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    fields = dict(config)
    kind = AutoModelForMaskedLM if recipe.task == "masked_lm" else AutoModelForCausalLM
    method = recipe.method

    def build() -> Any:
        settings = AutoConfig.for_model(fields.pop("model_type", ""), **fields)
        settings.use_cache = False
        model = kind.from_config(settings)
        if is_qlora(method):
            _quantise(model, method, word)
        if not is_full(method):
            model = _adapted(model, method)
        if layout.gradient_checkpointing:
            base = model.get_base_model() if not is_full(method) else model
            base.activation_checkpointing_enable({"use_reentrant": False})
        return model

    return build


def _adapted(model: Any, method: LoraMethod) -> Any:
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    names = ["q_proj", "k_proj", "v_proj", "o_proj"] if method.target_modules == "attention" else method.target_modules
    targets = names if isinstance(names, str) else list(names)
    saved, rows = list(method.modules_to_save) or None, list(method.trainable_tokens) or None
    settings = LoraConfig(r=method.r, target_modules=targets, use_dora=method.use_dora, modules_to_save=saved, trainable_token_indices=rows)
    return get_peft_model(model, settings)


def _is_adapter(path: str) -> bool:
    """Whether the module holds what peft widens to fp32 by itself."""
    return "lora_" in path or "trainable_tokens" in path


def _quantise(model: Any, method: QloraMethod, word: Any) -> None:
    """Replace linear layers but the output embedding by 4-bit ones. Raises ValueError for int8, which cannot be traced."""
    import bitsandbytes
    import torch

    if method.quantization == "int8":
        raise ValueError("8-bit layers take another path on the CPU")
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and module is not output:
            packed = bitsandbytes.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=word,
                compress_statistics=method.double_quant,
                quant_type=method.quantization,
            )
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed)
    model.is_loaded_in_4bit = True


def _materialise(model: Any, word: Any, recipe: Recipe) -> None:
    """Every meta parameter and buffer becomes a fake CPU tensor; ties stay ties. Call inside FakeTensorMode."""
    import torch

    made: dict[int, Any] = {}
    for path, module in model.named_modules():
        for name, parameter in list(module._parameters.items()):  # noqa: SLF001 - the only place where a parameter can be exchanged
            if parameter is None:
                continue
            if type(parameter).__name__ == "Params4bit":
                module._parameters[name] = _packed(module, recipe, word)  # noqa: SLF001
                continue
            if id(parameter) not in made:
                dtype = word if word is not None and parameter.dtype.is_floating_point and not _is_adapter(path) else parameter.dtype
                made[id(parameter)] = torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]  # noqa: SLF001
        for name, buffer in list(module._buffers.items()):  # noqa: SLF001
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)  # noqa: SLF001


def _packed(module: Any, recipe: Recipe, word: Any) -> Any:
    """A packed 4-bit weight with a quantisation state made by hand: bitsandbytes cannot pack a fake tensor."""
    import torch
    from bitsandbytes.functional import QuantState

    assert is_qlora(recipe.method)  # noqa: S101 - only quantised methods have packed weights
    count = module.in_features * module.out_features
    weight = torch.nn.Parameter(torch.empty(((count + 1) // 2, 1), dtype=torch.uint8), requires_grad=False)
    scales, nested = -(-count // 64), recipe.method.double_quant
    inner = QuantState(absmax=torch.empty(-(-scales // 256)), blocksize=256, code=torch.empty(256), dtype=torch.float32)
    state = QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size((module.out_features, module.in_features)),
        code=torch.empty(16),
        blocksize=64,
        quant_type=recipe.method.quantization,
        dtype=word,
        offset=torch.empty(()) if nested else None,
        state2=inner if nested else None,
    )
    weight.quant_state = module.quant_state = state
    weight.bnb_quantized = True
    return weight


def _steps(model: Any, recipe: Recipe, layout: Layout, word: Any) -> None:
    """Two steps of forward, full loss, backward and fused AdamW, each in a function so that no name outlives it."""
    import torch

    engine = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], fused=True)
    shape = (layout.micro_batch_size, recipe.data.max_length)

    def loss() -> Any:
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=word != torch.float32):
            logits = model(input_ids=ids).logits
            return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    for _ in range(STEPS):
        loss().backward()
        engine.step()
        engine.zero_grad(set_to_none=True)
