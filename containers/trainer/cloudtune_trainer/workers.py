"""This process among its equals: rank, number of workers, device, and the few sums they share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile

# Groups are kept until the process ends. Freed by Python, gloo's group waits for its thread while holding the interpreter's
# lock, which that thread needs to free a tensor: now and then the two wait for each other for ever (torch 2.13).
_OPENED: list[Any] = []


@dataclass(frozen=True, slots=True)
class Workers:
    """``rank`` of ``count`` workers, ``local`` on this machine; ``device`` is its own. One worker needs no communication."""

    rank: int
    count: int
    device: torch.device
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes files and the log."""
        return self.rank == 0

    @property
    def keeps(self) -> bool:
        """Whether this worker writes checkpoints: one per machine, as machines do not share a disk."""
        return self.local == 0

    def total(self, values: list[float]) -> list[float]:
        """Element-wise sum over all workers, in double precision."""
        if self.count == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared)
        return [float(value) for value in shared.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any worker."""
        return self.total([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every worker, in the order of their ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every worker is here; at once when they were never connected."""
        if self.count > 1 and distributed.is_initialized():
            distributed.barrier()


def join(job: JobFile) -> Workers:
    """This worker, from the environment that the starter of the processes set (RANK, LOCAL_RANK, WORLD_SIZE)."""
    rank, local, count = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    if job.layout.data_parallel not in (1, count):
        raise JobFailed(f"the layout has {job.layout.data_parallel} workers, but {count} were started")
    if job.device == "cuda" and not torch.cuda.is_available():
        raise JobFailed("the job wants a GPU and none can be seen here", hint="check the driver, or run with --provider local")
    device = torch.device("cuda", local) if job.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Workers(rank, count, device, local)


def connect(workers: Workers) -> None:
    """Open the process group. Called after the data is tokenised: a slow first worker would run into the time limit."""
    if workers.count > 1 and not distributed.is_initialized():
        arguments: dict[str, Any] = {"device_id": workers.device} if workers.device.type == "cuda" else {}
        backend = "nccl" if workers.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(minutes=30), **arguments)
        _OPENED.append(distributed.group.WORLD)


def disconnect() -> None:
    """Close the process group, if one is open."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
