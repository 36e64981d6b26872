"""A floor of the peak in closed form: what lies on the device between two steps. Exact sums, no tape, microseconds.

    floor = weights + adapters + optimizer states, each tensor rounded up to 512 bytes, shards under FSDP

A job whose floor is above the capacity cannot run, whatever its batch; that rules out most small cards before any replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.inventory import is_quantised, is_saved, is_target, output_name, stored, weight_word
from cloudtune.memory.loading import SHARED
from cloudtune.memory.optimizers import state_sizes
from cloudtune.memory.program import Job
from cloudtune.models.shape import Tensor
from cloudtune.recipe.method import is_full, is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.method import Method


def floor_bytes(job: Job) -> int:
    """Bytes that are live all the time from the second step on. Never above the replayed peak."""
    if job.offload:
        return 0
    output = output_name(job.shape)
    ends = [(tensor, 1, tensor.name) for tensor in (*job.shape.stem, *job.shape.head)]
    inside = [(tensor, block.count, "") for block in job.shape.blocks for tensor in block.tensors]
    total = 0
    for tensor, count, name in (*ends, *inside):
        if tensor.tied_to is None:
            total += count * _resident(tensor, name, job, output)
    return total


def _resident(tensor: Tensor, name: str, job: Job, output: str) -> int:
    """One parameter with its adapter and the optimizer's states for what is trained of it."""
    method, behaviour = job.method, job.behaviour
    form = stored(tensor, name, method, behaviour, output)
    total = sum(_rounded(-(-size // job.shards) if what in SHARED else size) for what, size in form.pieces)
    if behaviour.kbit_upcast and is_qlora(method) and not is_quantised(tensor, name, method, output):
        total = _rounded(-(-tensor.numel // job.shards) * 4)
    if is_full(method):
        table = tensor.kind in {"embedding", "position"}
        return total + _states(-(-tensor.numel // job.shards), behaviour.full_word, behaviour, table=table)
    if is_saved(tensor, method):
        word = weight_word(method, behaviour, quantised=False)
        table = tensor.kind in {"embedding", "position"}
        total += _rounded(tensor.numel * word) + _states(tensor.numel, word, behaviour, table=table)
    return total + _adapter(tensor, name, method, job, output)


def _adapter(tensor: Tensor, name: str, method: Method, job: Job, output: str) -> int:
    if is_full(method) or tensor.kind != "linear" or name == output or not is_target(tensor.module, method.target_modules):
        return 0
    word, total = job.behaviour.adapter_word, 0
    for size in tensor.shape:
        count = -(-method.r * size // job.shards)
        total += _rounded(count * word) + _states(count, word, job.behaviour)
    return total


def _states(count: int, word: int, behaviour: Behaviour, *, table: bool = False) -> int:
    return sum(_rounded(size) for size in state_sizes(count, word, behaviour, table=table))


def _rounded(size: int) -> int:
    return -(-size // 512) * 512
