"""How fast GPUs and the wires between them are: makers' numbers as data, found by a GPU's name. Pure.

Peaks are dense 16-bit tensor throughput with 32-bit accumulation and no sparsity, bandwidth is the card's memory,
both from NVIDIA's data sheets of the server version that the clouds rent (A10G: AWS's g5 page).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """Peak in FLOP/s, memory bandwidth in bytes/s. ``measured``: published training speeds of this GPU were scored."""

    name: str
    flops: float
    bandwidth: float
    measured: bool = False


# name found in an offer's GPU name: TFLOP/s, GB/s, whether docs/accuracy.md has rows of it
_TABLE: tuple[tuple[str, float, float, bool], ...] = (
    ("P100", 18.7, 732, False),
    ("V100", 125, 900, False),
    ("T4", 65, 320, False),
    ("A10G", 70, 600, False),
    ("A10", 125, 600, False),
    ("A6000", 154.8, 768, True),
    ("RTX 6000 Ada", 364, 960, False),
    ("L40S", 362, 864, False),
    ("L4", 121, 300, False),
    ("A100", 312, 1555, True),
    ("A100-80GB", 312, 2039, True),
    ("A100 80GB", 312, 2039, True),
    ("A100-SXM 80GB", 312, 2039, True),
    ("H100", 989, 3350, True),
    ("H200", 989, 4800, False),
    ("GH200", 989, 4000, False),
    ("B200", 2250, 8000, False),
    ("B300", 2250, 8000, False),
    ("GB200", 2500, 8000, False),
    ("3090", 71, 936, False),
    ("4090", 165, 1008, True),
    ("5090", 209, 1792, False),
    ("RTX PRO 4500", 110, 896, False),
    ("RTX PRO 6000", 503, 1597, False),
)
# A card nobody has heard of is taken as a T4: slow, so that its time is not promised too short.
UNKNOWN = GpuSpeed("unknown", 65e12, 320e9)


def gpu_speed(name: str) -> GpuSpeed:
    """The speed of a GPU by the longest table name that occurs in ``name``; ``UNKNOWN`` when none does."""
    found = [row for row in _TABLE if row[0] in name]
    if not found:
        return UNKNOWN
    label, tflops, gigabytes, measured = max(found, key=lambda row: len(row[0]))
    return GpuSpeed(label, tflops * 1e12, gigabytes * 1e9, measured)


@dataclass(frozen=True, slots=True)
class Wires:
    """Nominal bytes/s in one direction: between two GPUs of a machine, and between two machines.

    ``switched``: the GPUs are joined by NVLink; else they copy through the host.
    """

    inside: float
    between: float
    switched: bool = False


# One direction of 16 PCIe lanes; cards without NVLink copy through the host, which halves it again.
PCIE = {"Gen5": 32e9, "Gen4": 16e9}
PCIE_UNKNOWN = 8e9
NETWORK_GBPS_UNKNOWN = 25.0
_GIGABYTES = re.compile(r"(\d+)\s*GB/s")


def wires(interconnect: str, network_gbps: float | None) -> Wires:
    """Speeds from an offer's words, such as ``NVSwitch 600 GB/s`` (both directions together) or ``PCIe Gen4``."""
    between = (network_gbps or NETWORK_GBPS_UNKNOWN) * 1e9 / 8
    if "NV" in interconnect and (match := _GIGABYTES.search(interconnect)):
        return Wires(float(match[1]) * 1e9 / 2, between, switched=True)
    generation = next((speed for word, speed in PCIE.items() if word in interconnect), PCIE_UNKNOWN)
    return Wires(generation, between)
