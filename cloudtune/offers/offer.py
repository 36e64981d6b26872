"""One machine type in one region under one purchase option at one dated price. Values and pure rules; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Purchase = Literal["on_demand", "spot", "flex_start", "reserved", "owned"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of card. ``memory_bytes`` is what CUDA shows as the card's total, which is less than its name says."""

    name: str
    memory_bytes: int
    compute_capability: float
    """Such as 8.6; 0 for what is no CUDA device."""
    bf16: bool
    """Whether it computes in bfloat16: from compute capability 8.0 on."""
    memory_basis: Literal["measured", "nominal"] = "measured"
    """measured: read from a real card; nominal: the maker's size less 3 %."""


NO_GPU = Gpu("cpu", 0, 0.0, bf16=True)
"""Stands in an offer without GPUs; every CPU computes in bfloat16, some slowly."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be rented (or is owned), for one machine. Sizes in bytes, price in USD per hour and machine."""

    provider: str
    region: str
    instance: str
    """The provider's name of the machine type. On GCP one n1 type carries different GPUs, so it is no key by itself."""
    purchase: Purchase
    gpu: Gpu
    gpu_count: int
    """GPUs of one machine; 0 = the CPU does the work."""
    vcpus: int
    host_memory_bytes: int
    local_disk_bytes: int
    """Fast disks that come with the machine; 0 = only what is attached."""
    interconnect: str
    """Between the GPUs of a machine, in the maker's words; empty for one GPU."""
    usd_per_hour: float | None
    """None = unknown, which is not the same as free. Without the boot disk."""
    price_date: str
    """ISO date of the price; empty when the price is unknown or the machine is owned."""
    source: str
    network_gbps: float | None = None
    """Between machines, Gbit/s; None = unknown."""
    accelerator: str = ""
    """The provider's word for the GPU where a request must say it (Vertex AI), else empty."""
    blocked: str = ""
    """Why no job of ours can run there, in one sentence; empty = nothing known against it."""
    disk_usd_per_gib_hour: float = 0.0
    """Price of attached boot disk, on top of ``usd_per_hour``; 0 = included or of no weight."""
    usd_per_hour_low: float | None = None
    usd_per_hour_high: float | None = None
    """Ends of the range where no fixed price is published (managed spot); ``usd_per_hour`` lies between them."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A combination that does not work: ``word`` on cards below or from a compute capability."""

    word: str
    below: float | None
    since: float | None
    reason: str


# Sources: NVIDIA's table of compute capabilities; PyTorch's release notes for CUDA 13 builds (Volta and older dropped) and
# CUDA 12.8 builds (first with Blackwell); the READMEs of FlashAttention 2 and bitsandbytes. Collected 2026-11-23.
RULES = (
    _Rule("bfloat16", 8.0, None, "has no bfloat16; model.dtype: float16 would allow it"),
    _Rule("flash_attention_2", 8.0, None, "is too old for FlashAttention 2; model.attention: sdpa would allow it"),
    _Rule("int8", 7.5, None, "is too old for 8-bit weights; method.quantization: nf4 would allow it"),
    _Rule("cuda13", 7.5, None, "is too old for CUDA 13; images with CUDA 12.6 still know it"),
    _Rule("cuda12.6", None, 10.0, "is too new for CUDA 12.6; images with CUDA 12.8 or later know it"),
)
WORDS = frozenset(rule.word for rule in RULES)


def unsupported(gpu: Gpu, *words: str) -> str | None:
    """Why ``gpu`` cannot do what the words ask for (``WORDS``; others are ignored), as one sentence; None = it can.

    A card of unknown compute capability (0) is let pass.
    """
    capability = gpu.compute_capability
    for rule in RULES if capability else ():
        too_old = rule.below is not None and capability < rule.below
        too_new = rule.since is not None and capability >= rule.since
        if rule.word in words and (too_old or too_new):
            return f"{gpu.name} {rule.reason}"
    return None
