"""The model spread over all workers (FSDP2): every worker keeps a slice of every weight, and a layer is whole while it runs.

How it comes to be: each worker builds the model without memory (on the meta device); the first also reads the real one
into host memory and deals every weight out, one after the other, so that no GPU ever holds the model. 4-bit weights are
packed on the first worker's GPU on the way; their scales go to everybody. Decides no precision but the one in ``policy``.

The memory estimate (``cloudtune/memory/parallel.py``) replays what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import distributed, nn

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import QloraMethod
from cloudtune_trainer.workers import Workers

BLOCK = 64  # bitsandbytes' own numbers per scale, and transformers' choice


def is_sharded(job: JobFile) -> bool:
    """Whether the layout spreads the weights over the workers."""
    return job.layout.sharding == "fsdp"


def policy(job: JobFile) -> dict[str, Any]:
    """Arguments of ``fully_shard``. Weights are gathered in the type that is computed in, gradients are summed in fp32.

    On the CPU, and for float32, nothing is cast.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

    cuda = job.device == "cuda"
    narrow = torch.bfloat16 if cuda and job.recipe.model.dtype == "bfloat16" else None
    mixed = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=cuda) if job.layout.cpu_offload else OffloadPolicy()
    return {"mp_policy": mixed, "offload_policy": offload}


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The repeating layers, each of which is gathered at once. Raises JobFailed when the model has none that we know."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            found.append(module)
            inside.update(id(child) for child in module.modules())
    if not found:
        raise JobFailed("the model's layers are not known to transformers as such, so it cannot be sharded", hint="choose a larger GPU")
    return found


def spread(job: JobFile, root: nn.Module, source: nn.Module | None, workers: Workers) -> None:
    """Shard ``root``, which is on the meta device, and deal out the weights of ``source`` (None but on the first worker).

    ``source`` has the unquantised weights under the same names, and loses them on the way.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    packed = _placeholders(root)
    mesh = init_device_mesh(workers.device.type, (workers.count,))
    arguments = policy(job)
    for layer in layers_of(root):
        fully_shard(layer, mesh=mesh, **arguments)
    fully_shard(root, mesh=mesh, **arguments)
    given = None if source is None else dict(source.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}
    keep = torch.device("cpu") if job.layout.cpu_offload else workers.device
    for path, module in root.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) not in made:
                whole = None if given is None else _taken(given, f"{path}.{name}", weight)
                if module in packed and name == "weight":
                    whole = _quantised(job, module, whole, workers)
                made[id(weight)] = _dealt(weight, whole, workers, keep)
            setattr(module, name, made[id(weight)])  # tied weights stay tied
    _share_buffers(root, source, workers)


def _taken(given: dict[str, nn.Parameter], name: str, wanted: torch.Tensor) -> torch.Tensor:
    """The whole weight, taken out of the source so that host memory is free again."""
    if name not in given:
        raise JobFailed(f"the model has no weight {name} to deal out")
    whole = given[name].data
    given[name].data = whole.new_empty(0)
    if wanted.dtype.is_floating_point and whole.shape != wanted.shape:
        raise JobFailed(f"weight {name} has the shape {tuple(whole.shape)}, expected {tuple(wanted.shape)}")
    return whole


def _placeholders(root: nn.Module) -> set[nn.Module]:
    """Every 4-bit layer's weight becomes a plain one of packed bytes, which FSDP can slice; its layer keeps the scales."""
    from bitsandbytes.nn import Linear4bit

    found = {module for module in root.modules() if isinstance(module, Linear4bit)}
    for module in found:
        count = module.in_features * module.out_features
        packed = torch.empty(((count + 1) // 2, 1), dtype=torch.uint8, device="meta")
        module.weight = nn.Parameter(packed, requires_grad=False)
    return found


def _quantised(job: JobFile, module: Any, whole: torch.Tensor | None, workers: Workers) -> torch.Tensor | None:
    """The packed bytes of ``whole``, and its scales in ``module`` on every worker."""
    from bitsandbytes.functional import QuantState, quantize_4bit

    method = job.recipe.method
    assert isinstance(method, QloraMethod)  # noqa: S101 - only qlora has 4-bit layers
    packed: torch.Tensor | None = None
    told: list[Any] = [None]
    if whole is not None:
        if module.source_cls.__name__ == "Conv1D":
            whole = whole.T.contiguous()
        packed, state = quantize_4bit(
            whole.to(workers.device),
            blocksize=BLOCK,
            compress_statistics=method.double_quant,
            quant_type=method.quantization,
            quant_storage=torch.uint8,
        )
        told = [{key: value.cpu() for key, value in state.as_dict(packed=True).items()}]
    distributed.broadcast_object_list(told, src=0, device=workers.device)
    module.quant_state = QuantState.from_dict(told[0], device=workers.device)
    return packed


def _dealt(weight: Any, whole: torch.Tensor | None, workers: Workers, keep: torch.device) -> nn.Parameter:
    """This worker's rows of a weight as the parameter that takes the place of ``weight``."""
    rows = -(-weight.shape[0] // workers.count)
    mine = torch.empty((rows, *weight.shape[1:]), dtype=weight.dtype, device=workers.device)
    pieces = None
    if workers.first:
        assert whole is not None  # noqa: S101 - the first worker has the source
        padded = torch.zeros((rows * workers.count, *weight.shape[1:]), dtype=weight.dtype, device=workers.device)
        padded[: weight.shape[0]].copy_(whole)
        pieces = list(padded.chunk(workers.count))
    distributed.scatter(mine, pieces, src=0)
    local = mine[: weight.to_local().shape[0]].to(keep)
    return nn.Parameter(as_shard(local, weight), requires_grad=weight.requires_grad)


def as_shard(local: torch.Tensor, weight: Any) -> Any:
    """``local`` as a shard like ``weight``. Not by DTensor.from_local, which moves it to the mesh's device: shards may lie on the host."""
    from torch.distributed.tensor import DTensor

    return DTensor(local, weight._spec, requires_grad=False)  # noqa: SLF001 - as fully_shard itself does it


def _share_buffers(root: nn.Module, source: nn.Module | None, workers: Workers) -> None:
    """Buffers, and plain tensors that modules keep beside them, as the source has them: everybody gets all of each."""
    given = None if source is None else dict(source.named_modules())
    for path, module in root.named_modules():
        for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if not (isinstance(value, torch.Tensor) and value.is_meta):
                continue
            fresh = torch.empty_like(value, device=workers.device)
            if given is not None:
                fresh.copy_(getattr(given[path], name))
            distributed.broadcast(fresh, src=0)
            setattr(module, name, fresh)


def whole_state(model: nn.Module, workers: Workers, *, trained_only: bool, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Name → whole tensor in host memory, on the first worker; empty on the others, which only send.

    ``trained_only``: what is trained; otherwise all weights and lasting buffers. ``dtype``: what floating ones are cast to.
    """
    found = {}
    for name, weight in model.named_parameters():
        if trained_only and not weight.requires_grad:
            continue
        whole = gather(weight, workers)
        if whole is not None:
            found[name] = whole.to("cpu", dtype if whole.is_floating_point() else None)
    if not trained_only and workers.first:
        lasting = model.state_dict().keys()
        found.update((name, buffer.cpu()) for name, buffer in model.named_buffers() if name in lasting)
    return found


def gather(weight: Any, workers: Workers) -> torch.Tensor | None:
    """A sharded weight whole on the first worker's device; None on the others."""
    local, rows = weight.to_local().detach(), -(-weight.shape[0] // workers.count)
    mine = torch.zeros((rows, *weight.shape[1:]), dtype=local.dtype, device=workers.device)
    mine[: local.shape[0]].copy_(local)
    pieces = [torch.empty_like(mine) for _ in range(workers.count)] if workers.first else None
    distributed.gather(mine, pieces, dst=0)
    return None if pieces is None else torch.cat(pieces)[: weight.shape[0]]


def clip(weights: Iterable[Any], longest: float, workers: Workers) -> float:
    """Shorten the gradient to ``longest`` and return its length before, over the shards of all workers.

    torch's own function would gather norms as tensors of the mesh, which offloaded shards are not on.
    """
    shards = [weight.grad.to_local() for weight in weights if weight.grad is not None]
    here = sum((torch.linalg.vector_norm(shard.float()).double() ** 2 for shard in shards if shard.numel()), torch.zeros(()).double())
    length = math.sqrt(workers.total([float(here)])[0])
    factor = longest / (length + 1e-6)
    if factor < 1.0:
        for shard in shards:
            shard.mul_(factor)
    return length


def parameters_of(model: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Every weight once with its number of elements; a byte of packed 4-bit weights holds two."""
    seen: set[int] = set()
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            yield weight, math.prod(state.shape) if state is not None and name == "weight" else weight.numel()
