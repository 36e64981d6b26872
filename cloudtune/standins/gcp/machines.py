"""Which machines and GPUs Vertex AI trains on, as its page "Configure compute resources" lists them (read 2026-11-25). Data only.

Kept apart from the provider's own tables on purpose: a mistake there must not be repeated here.
"""

from __future__ import annotations

_Counts = dict[str, tuple[int, ...]]
_SMALL: _Counts = {"NVIDIA_TESLA_T4": (1, 2, 4), "NVIDIA_TESLA_P4": (1, 2, 4), "NVIDIA_TESLA_V100": (1, 2, 4, 8)}
_MIDDLE: _Counts = {**_SMALL, "NVIDIA_TESLA_V100": (2, 4, 8)}
_LARGE: _Counts = {"NVIDIA_TESLA_T4": (2, 4), "NVIDIA_TESLA_P4": (2, 4), "NVIDIA_TESLA_V100": (4, 8)}
_LARGEST: _Counts = {"NVIDIA_TESLA_T4": (4,), "NVIDIA_TESLA_P4": (4,), "NVIDIA_TESLA_V100": (8,)}

# machine → GPU → how many; these may also run without one
N1: dict[str, dict[str, tuple[int, ...]]] = {
    **{f"n1-standard-{size}": _SMALL for size in (4, 8)},
    **{f"n1-highmem-{size}": _SMALL for size in (2, 4, 8)},
    **{f"n1-{kind}-16": _MIDDLE for kind in ("standard", "highmem", "highcpu")},
    **{f"n1-{kind}-32": _LARGE for kind in ("standard", "highmem", "highcpu")},
    **{f"n1-{kind}-{size}": _LARGEST for kind in ("standard", "highmem", "highcpu") for size in (64, 96)},
}

# machine → its one GPU and number
FIXED: dict[str, tuple[str, int]] = {
    **{f"a2-highgpu-{count}g": ("NVIDIA_TESLA_A100", count) for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{count}g": ("NVIDIA_A100_80GB", count) for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": ("NVIDIA_H100_80GB", count) for count in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
    **{
        f"g2-standard-{size}": ("NVIDIA_L4", count)
        for size, count in ((4, 1), (8, 1), (12, 1), (16, 1), (24, 2), (32, 1), (48, 4), (96, 8))
    },
    **{f"g4-standard-{size}": ("NVIDIA_RTX_PRO_6000", size // 48) for size in (48, 96, 192, 384)},
}

WITHOUT_GPU = frozenset(
    [f"e2-standard-{size}" for size in (4, 8, 16, 32)]
    + [f"e2-highmem-{size}" for size in (2, 4, 8, 16)]
    + [f"e2-highcpu-{size}" for size in (16, 32)]
    + [f"n2-{kind}-{size}" for kind in ("standard", "highmem") for size in (4, 8, 16, 32, 48, 64, 80)]
    + [f"n4-{kind}-{size}" for kind in ("standard", "highmem", "highcpu") for size in (2, 4, 8, 16, 32, 48, 64, 80)]
    + [f"c2-standard-{size}" for size in (4, 8, 16, 30, 60)]
    + [f"m1-ultramem-{size}" for size in (40, 80, 160)]
    + ["m1-megamem-96"]
)

# Dynamic Workload Scheduler: "L4, A100, H100, H200, or B200 GPUs"
FLEX_GPUS = frozenset({"NVIDIA_L4", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB", "NVIDIA_H200_141GB", "NVIDIA_B200"})
# These H100 shapes exist as Spot and Flex-start capacity only.
NEVER_STANDARD = frozenset({"a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g"})
RESERVED_ONLY = frozenset({"a4x-highgpu-4g"})

# Regions that have the L4, but not for training; and the only ones with the RTX PRO 6000
NO_L4_TRAINING = frozenset({"asia-east1", "asia-northeast1", "europe-west1", "europe-west3", "europe-west6", "us-west4"})
RTX_REGIONS = frozenset({"asia-south2", "asia-southeast1", "europe-west4", "us-central1", "us-east1", "us-east4"})
REGIONS = frozenset(
    """asia-east1 asia-east2 asia-northeast1 asia-northeast3 asia-south1 asia-south2 asia-southeast1 australia-southeast1
    europe-central2 europe-north1 europe-southwest1 europe-west1 europe-west2 europe-west3 europe-west4 europe-west6 europe-west8
    europe-west9 me-central2 me-west1 northamerica-northeast1 southamerica-east1 us-central1 us-east1 us-east4 us-east5 us-south1
    us-west1 us-west2 us-west3 us-west4""".split(),  # noqa: SIM905 - a list of so many names is read more easily so
)
# GPU → its part of the quota metrics' names
METRIC_WORDS = {
    "NVIDIA_TESLA_T4": "t4",
    "NVIDIA_TESLA_P4": "p4",
    "NVIDIA_TESLA_V100": "v100",
    "NVIDIA_L4": "l4",
    "NVIDIA_TESLA_A100": "a100",
    "NVIDIA_A100_80GB": "a100_80gb",
    "NVIDIA_H100_80GB": "h100",
    "NVIDIA_H100_MEGA_80GB": "h100_mega",
    "NVIDIA_H200_141GB": "h200",
    "NVIDIA_B200": "b200",
    "NVIDIA_GB200": "gb200",
    "NVIDIA_RTX_PRO_6000": "rtx_pro_6000",
}
# vCPUs of the accelerator-optimised machines; of all others the name says it
_VCPUS = {
    **{f"a2-highgpu-{count}g": 12 * count for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": 96,
    **{f"a2-ultragpu-{count}g": 12 * count for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": 26 * count for count in (1, 2, 4, 8)},
    "a3-megagpu-8g": 208,
    "a3-ultragpu-8g": 224,
    "a4-highgpu-8g": 224,
    "a4x-highgpu-4g": 140,
}


def known(machine: str) -> bool:
    """Whether Vertex AI trains on machines of this type."""
    return machine in N1 or machine in FIXED or machine in WITHOUT_GPU


def counts(machine: str, gpu: str) -> tuple[int, ...]:
    """How many of this GPU the machine may have; empty: none of them."""
    if machine in FIXED:
        own, count = FIXED[machine]
        return (count,) if own == gpu else ()
    return N1.get(machine, {}).get(gpu, ())


def trains_in(gpu: str, region: str) -> bool:
    """Whether the region has this GPU for training, as far as the page "Locations" was read; unsaid counts as yes."""
    if gpu == "NVIDIA_L4":
        return region not in NO_L4_TRAINING
    if gpu == "NVIDIA_RTX_PRO_6000":
        return region in RTX_REGIONS
    return True


def vcpus(machine: str) -> int:
    """vCPUs of one machine."""
    return _VCPUS.get(machine) or int(machine.rsplit("-", 1)[1])
