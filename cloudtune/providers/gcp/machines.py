"""Which machines Vertex AI trains on, with which accelerators, bought how, and where. Pure tables.

Read 2026-11-23 from Google's pages "Configure compute resources for training" and "Locations" and the enum AcceleratorType
of google-cloud-aiplatform 2.7.0. Presence here is neither a quota nor free capacity.
"""

from __future__ import annotations

from typing import Final, Literal

from cloudtune.offers.disks import HYPERDISK

Known = Literal["yes", "no", "unknown"]

_FIXED: Final[dict[str, str]] = {  # accelerator → machine:count; the count is fixed and must be sent all the same
    "NVIDIA_L4": "g2-standard-4:1 g2-standard-8:1 g2-standard-12:1 g2-standard-16:1 g2-standard-32:1 g2-standard-24:2 "
    "g2-standard-48:4 g2-standard-96:8",
    "NVIDIA_RTX_PRO_6000": "g4-standard-48:1 g4-standard-96:2 g4-standard-192:4 g4-standard-384:8",
    "NVIDIA_TESLA_A100": "a2-highgpu-1g:1 a2-highgpu-2g:2 a2-highgpu-4g:4 a2-highgpu-8g:8 a2-megagpu-16g:16",
    "NVIDIA_A100_80GB": "a2-ultragpu-1g:1 a2-ultragpu-2g:2 a2-ultragpu-4g:4 a2-ultragpu-8g:8",
    "NVIDIA_H100_80GB": "a3-highgpu-1g:1 a3-highgpu-2g:2 a3-highgpu-4g:4 a3-highgpu-8g:8",
    "NVIDIA_H100_MEGA_80GB": "a3-megagpu-8g:8",
    "NVIDIA_H200_141GB": "a3-ultragpu-8g:8",
    "NVIDIA_B200": "a4-highgpu-8g:8",
    "NVIDIA_GB200": "a4x-highgpu-4g:4",
}
# n1 machines take cards by choice; the least count grows with the cores, whatever the memory.
_N1_CORES: Final = {"standard": (4, 8, 16, 32, 64, 96), "highmem": (4, 8, 16, 32, 64, 96), "highcpu": (16, 32, 64, 96)}
_N1_CARDS: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "NVIDIA_TESLA_T4": {4: (1, 2, 4), 8: (1, 2, 4), 16: (1, 2, 4), 32: (2, 4), 64: (4,), 96: (4,)},
    "NVIDIA_TESLA_V100": {4: (1, 2, 4, 8), 8: (1, 2, 4, 8), 16: (2, 4, 8), 32: (4, 8), 64: (8,), 96: (8,)},
}
_E2: Final = tuple(f"e2-standard-{cores}" for cores in (4, 8, 16, 32))

GONE: Final = {"NVIDIA_TESLA_P100": "2026-09-15", "NVIDIA_TESLA_K80": "2024-05-01"}
"""Accelerators that the enum still has and the service has ended, with the day."""
_FLEX: Final = frozenset({"NVIDIA_L4", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB", "NVIDIA_H200_141GB", "NVIDIA_B200"})
_ONLY_SPOT_OR_FLEX: Final = frozenset({"a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g"})
_ONLY_RESERVED: Final = frozenset({"a4x-highgpu-4g"})
_GIB_NETWORK: Final = ("a3-ultragpu-", "a4-", "a4x-")

_NOT_FOR_TRAINING: Final[dict[str, frozenset[str]]] = {
    "NVIDIA_L4": frozenset({"asia-east1", "asia-northeast1", "europe-west1", "europe-west3", "europe-west6", "us-west4"}),
}
_ONLY_IN: Final[dict[str, frozenset[str]]] = {
    "NVIDIA_RTX_PRO_6000": frozenset({"asia-south2", "asia-southeast1", "europe-west4", "us-central1", "us-east1", "us-east4"}),
}
_EVERYTHING: Final = frozenset({"us-central1"})
"""Regions with every accelerator of these tables."""


def _legal() -> dict[str, dict[str, tuple[int, ...]]]:
    found: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in _E2}
    for accelerator, pairs in _FIXED.items():
        for pair in pairs.split():
            machine, _, count = pair.partition(":")
            found[machine] = {accelerator: (int(count),)}
    for kind, sizes in _N1_CORES.items():
        for cores in sizes:
            found[f"n1-{kind}-{cores}"] = {card: counts[cores] for card, counts in _N1_CARDS.items()}
    return found


MACHINES: Final = _legal()
"""Machine type → accelerator → counts that it may be asked for with; e2 and n1 machines also run without any."""


def pair_fault(machine: str, accelerator: str, count: int) -> str:
    """Why ``machine`` cannot be had with ``count`` of ``accelerator`` (empty and 0: none), or an empty string."""
    cards = MACHINES.get(machine)
    if cards is None:
        return "is no machine type that Vertex AI trains on"
    if accelerator in GONE:
        return f"asks for an accelerator whose support ended on {GONE[accelerator]}"
    if not accelerator:
        return "needs its accelerator named" if len(cards) == 1 else ""
    if accelerator not in cards:
        return f"does not come with that accelerator, but with {' or '.join(cards) or 'none'}"
    if count not in cards[accelerator]:
        return f"comes with {' or '.join(map(str, cards[accelerator]))} of that accelerator, not {count}"
    return ""


def purchase_fault(machine: str, accelerator: str, strategy: str, *, reserved: bool) -> str:
    """Why ``machine`` is not sold by ``strategy`` (STANDARD, SPOT, FLEX_START), or an empty string."""
    if machine in _ONLY_RESERVED and not reserved:
        return "is only to be had from a reservation"
    if machine in _ONLY_SPOT_OR_FLEX and strategy == "STANDARD" and not reserved:
        return "is only sold as spot or flex-start"
    if strategy == "FLEX_START" and accelerator not in _FLEX:
        return "is not sold as flex-start"
    if reserved and strategy != "STANDARD":
        return "cannot be drawn from a reservation and be spot or flex-start at once"
    return ""


def availability(region: str, accelerator: str) -> Known:
    """Whether training jobs can have ``accelerator`` in ``region``, as far as the tables know."""
    if not accelerator or region in _EVERYTHING:
        return "yes"
    if accelerator in _ONLY_IN:
        return "yes" if region in _ONLY_IN[accelerator] else "no"
    return "no" if region in _NOT_FOR_TRAINING.get(accelerator, ()) else "unknown"


def boot_disk_type(machine: str) -> str:
    """The kind of boot disk that the machine takes."""
    return "hyperdisk-balanced" if machine.startswith(HYPERDISK) else "pd-ssd"


def needs_network_script(machine: str) -> bool:
    """Whether several machines of this type talk fast only after Google's own NCCL settings were read."""
    return machine.startswith(_GIB_NETWORK)
