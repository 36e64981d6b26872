"""What a boot disk costs and how well that is known, as data. Pure.

Google's page of disk prices has 200 GiB of pd-ssd at 34 USD a month in the US, which is 0.17 per GiB; Vertex AI bills 1.15 times
the list price (reference of 2026-08: 0.1955 on an invoice of 2025-08). SageMaker's disks are in the price of its machines here.
"""

from __future__ import annotations

from typing import Final, Literal

Basis = Literal["", "listed", "assumed"]
"""How well a price is known: empty where there is none, ``listed`` with a source, ``assumed`` where another's is taken for it."""

USD_PER_GIB_HOUR: Final = {"aws": 0.0, "gcp": 0.0002678}
"""pd-ssd in us-central1, 0.1955 USD per GiB and month of 730 h."""
LEAST_GIB: Final = {"gcp": 100}
"""The smallest boot disk that can be asked for; a smaller wish is billed as this."""
HYPERDISK: Final = ("a3-ultragpu-", "a4-", "a4x-")
"""What Google's machine types begin with that take hyperdisk-balanced, whose price on Vertex AI no source of ours has."""
_LISTED_REGION: Final = "us-central1"
ASSUMED_ERROR: Final = 0.5
"""Share by which an assumed disk price may be wrong: list prices of pd-ssd differ by less between regions, and the capacity of
hyperdisk-balanced, with the 3,000 IOPS that are included, is listed at about half of pd-ssd."""


def usd_per_hour(provider: str, usd_per_gib_hour: float, wanted_gib: int) -> float:
    """The price of one machine's boot disk."""
    return usd_per_gib_hour * max(wanted_gib, LEAST_GIB.get(provider, 0))


def basis(provider: str, region: str, instance: str) -> Basis:
    """How well the disk's price of an offer is known."""
    if not USD_PER_GIB_HOUR.get(provider):
        return ""
    return "assumed" if region != _LISTED_REGION or instance.startswith(HYPERDISK) else "listed"
