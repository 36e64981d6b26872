"""Offers from the dated tables in ``offers/tables``, and this machine as an offer. Reads package data, nothing else.

``aws.csv`` and ``gcp.csv`` hold one offer per row with its own region, price date and source; an empty price is an
unknown one. Prices were collected on 2026-11-23 from public lists that are up to seven months old, in US dollars
without tax. AWS: SageMaker training. GCP: Vertex AI training, management fee included, boot disk apart.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import cast

from cloudtune.errors import UsageError
from cloudtune.offers.disks import USD_PER_GIB_HOUR
from cloudtune.offers.offer import NO_GPU, Gpu, Offer, Purchase
from cloudtune.offers.spot import with_managed_spot
from cloudtune.units import GIB, MIB

PROVIDERS = ("aws", "gcp")
TABLES = Path(__file__).with_name("tables")
# What nvidia-smi reports is more than CUDA hands out: 2-3 % on T4, A10G and L4, 0.5-1 % on larger cards.
USABLE_OF_REPORTED = 0.97
_BF16_SINCE = 8.0


@cache
def gpus() -> dict[str, Gpu]:
    """Known cards by name."""
    return {
        row["name"]: Gpu(
            name=row["name"],
            memory_bytes=int(row["usable_mib"]) * MIB,
            compute_capability=float(row["compute_capability"]),
            bf16=float(row["compute_capability"]) >= _BF16_SINCE,
            memory_basis="measured" if row["basis"] == "measured" else "nominal",
        )
        for row in _rows("gpus")
    }


def load_offers(provider: str, regions: Iterable[str] | None = None) -> tuple[Offer, ...]:
    """All offers of ``provider`` that the tables have, in table order; only those in ``regions`` when given.

    Offers of unknown price and offers that are ``blocked`` are among them: a plan says why it does not take them.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"no prices for {provider}", hint=f"known providers: {', '.join(PROVIDERS)}")
    wanted = None if regions is None else set(regions)
    return tuple(offer for offer in _table(provider) if wanted is None or offer.region in wanted)


def relevant(offers: Iterable[Offer], provider: str | None, regions: Iterable[str]) -> tuple[Offer, ...]:
    """The offers of the provider asked for, in the recipe's regions (this machine is in every region)."""
    wanted = set(regions)
    return tuple(
        offer
        for offer in offers
        if (provider is None or offer.provider == provider) and (offer.provider == "local" or offer.region in wanted)
    )


def known_regions(provider: str) -> tuple[str, ...]:
    """Regions that the tables have offers for."""
    return tuple(sorted({offer.region for offer in load_offers(provider)}))


def local_offer(
    *,
    cores: int,
    memory_bytes: int,
    gpu_name: str | None = None,
    gpu_memory_bytes: int = 0,
    gpu_count: int = 0,
    compute_capability: float = 0.0,
) -> Offer:
    """This machine, from facts that the caller found out: costs nothing and is owned.

    ``gpu_memory_bytes`` is what nvidia-smi reports for one card; ``compute_capability`` 0 = look it up by name.
    """
    gpu = _local_gpu(gpu_name, gpu_memory_bytes, compute_capability) if gpu_name and gpu_count else NO_GPU
    return Offer(
        provider="local",
        region="local",
        instance="this-machine",
        purchase="owned",
        gpu=gpu,
        gpu_count=0 if gpu is NO_GPU else gpu_count,
        vcpus=cores,
        host_memory_bytes=memory_bytes,
        local_disk_bytes=0,
        interconnect="",
        usd_per_hour=0.0,
        price_date="",
        source="this machine",
    )


def _local_gpu(name: str, reported_bytes: int, capability: float) -> Gpu:
    """A card as nvidia-smi names it (``NVIDIA A100-SXM4-80GB``): the table's card, or an unknown one less the driver's share."""
    known = _known(name, reported_bytes)
    if known is not None and known.memory_basis == "measured":
        return known
    memory = int(reported_bytes * USABLE_OF_REPORTED)
    return Gpu(name.removeprefix("NVIDIA "), memory, capability, bf16=capability >= _BF16_SINCE, memory_basis="nominal")


def _known(name: str, reported_bytes: int) -> Gpu | None:
    """The table's card of that name and about that size: many names come in two sizes."""
    words = name.replace("-", " ").split()
    matches = [
        gpu
        for gpu in gpus().values()
        if all(part in words for part in gpu.name.partition("-")[0].split()) and 0.9 < gpu.memory_bytes / max(1, reported_bytes) < 1.05
    ]
    return max(matches, key=lambda gpu: len(gpu.name), default=None)


@cache
def _table(provider: str) -> tuple[Offer, ...]:
    listed = tuple(_offer(provider, row) for row in _rows(provider))
    return with_managed_spot(listed) if provider == "aws" else listed


def _offer(provider: str, row: dict[str, str]) -> Offer:
    return Offer(
        provider=provider,
        region=row["region"],
        instance=row["instance"],
        purchase=cast("Purchase", row["purchase"]),
        gpu=gpus()[row["gpu"]],
        gpu_count=int(row["gpu_count"]),
        vcpus=int(row["vcpus"]),
        host_memory_bytes=int(float(row["memory_gib"]) * GIB),
        local_disk_bytes=int(float(row["disk_gb"]) * 10**9),
        interconnect=row["interconnect"],
        usd_per_hour=float(row["usd_per_hour"]) if row["usd_per_hour"] else None,
        price_date=row["price_date"],
        source=row["source"],
        network_gbps=float(row["network_gbps"]) if row["network_gbps"] else None,
        accelerator=row["accelerator"],
        blocked=row["blocked"],
        disk_usd_per_gib_hour=USD_PER_GIB_HOUR[provider],
    )


def _rows(table: str) -> list[dict[str, str]]:
    with (TABLES / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
