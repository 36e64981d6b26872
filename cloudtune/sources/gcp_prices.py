"""Vertex AI training prices from the Cloud Billing catalog: components of Compute Engine summed up, with the Vertex fee.

The rule (checked against an invoice and Google's price page, 2025-08 to 2026-10): on demand is 1.15 x the list price of
cores, memory and GPUs; spot and flex-start are their own price plus the same 15 % of list. Local disks are billed with
spot and flex-start only. A machine with any component unknown gets no price.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

from cloudtune.clock import Clock
from cloudtune.cost import with_management_fee
from cloudtune.errors import SourceError
from cloudtune.offers.catalog import Catalog, Price
from cloudtune.offers.offer import Offer
from cloudtune.sources.prices import opened, shown

URL = "https://cloudbilling.googleapis.com/v1/services/6F81-5844-456A/skus"  # Compute Engine
SOURCE = "Cloud Billing catalog, Compute Engine components with the Vertex fee of 15 %"
HOURS_PER_MONTH = 730
LARGEST_PAGE_BYTES = 64 * 2**20
# Machine family → how its core, memory and GPU are named in the catalog, before "running in".
COMPONENTS: Mapping[str, tuple[str, str]] = {
    "n1": ("N1 Predefined Instance Core", "N1 Predefined Instance Ram"),
    "g2": ("G2 Instance Core", "G2 Instance Ram"),
    "g4": ("G4 Instance Core", "G4 Instance Ram"),
    "a2": ("A2 Instance Core", "A2 Instance Ram"),
    "a3": ("A3 Instance Core", "A3 Instance Ram"),
}
GPUS: Mapping[str, str] = {
    "NVIDIA_TESLA_T4": "Nvidia Tesla T4 GPU",
    "NVIDIA_TESLA_V100": "Nvidia Tesla V100 GPU",
    "NVIDIA_L4": "Nvidia L4 GPU",
    "NVIDIA_TESLA_A100": "Nvidia Tesla A100 GPU",
    "NVIDIA_A100_80GB": "Nvidia Tesla A100 80GB GPU",
    "NVIDIA_H100_80GB": "Nvidia H100 80GB GPU",
    "NVIDIA_RTX_PRO_6000": "Nvidia RTX Pro 6000 GPU",
}
DISK = "SSD backed Local Storage"
_MARKS = {"spot": "Spot Preemptible", "flex_start": "DWS"}
Rates = dict[tuple[str, str, str], float]


def fetch(regions: Collection[str], machines: Collection[Offer], clock: Clock, today: date, url: str = URL) -> Catalog:
    """Prices of ``machines`` in ``regions``, each for its own way of purchase: not all are sold in all ways.

    Raises SourceError when an answer is cut, broken or without prices.
    """
    rates: Rates = {}
    for sku in _skus(url, clock):
        _keep(rates, sku, frozenset(regions))
    found = {price for machine in machines for region in regions if (price := _price(rates, machine, region)) is not None}
    if not found:
        raise SourceError("the price list has no components of known machines", where=shown(url), hint="the old prices stay in place")
    return Catalog("gcp", today.isoformat(), SOURCE, tuple(sorted(found)))


def _skus(url: str, clock: Clock) -> Iterator[Mapping[str, Any]]:
    """All SKUs, page by page: one page is held at a time."""
    token = ""
    key = os.environ.get("GOOGLE_API_KEY", "")
    while True:
        query = {"pageSize": "5000", **({"pageToken": token} if token else {}), **({"key": key} if key else {})}
        with opened(f"{url}?{urllib.parse.urlencode(query)}", clock) as stream:
            page = _page(stream.read(LARGEST_PAGE_BYTES + 1), shown(url))
        yield from (sku for sku in page.get("skus", ()) if isinstance(sku, Mapping))
        token = str(page.get("nextPageToken") or "")
        if not token:
            return


def _page(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        page = json.loads(raw)
    except ValueError as error:
        raise SourceError("the price list is cut or broken", where=where, hint="try again; the old prices stay in place") from error
    if not isinstance(page, Mapping) or not isinstance(page.get("skus", []), list):
        raise SourceError("this is no price list of Cloud Billing", where=where, hint="the old prices stay in place")
    return page


def _keep(rates: Rates, sku: Mapping[str, Any], regions: frozenset[str]) -> None:
    """Note the rate of a component under (name, region, purchase)."""
    named = _component(str(sku.get("description", "")), str((sku.get("category") or {}).get("usageType", "")))
    usd = _usd(sku)
    if named is None or usd is None:
        return
    for region in regions.intersection(sku.get("serviceRegions") or ()):
        rates[(named[0], region, named[1])] = usd


def _component(description: str, usage: str) -> tuple[str, str] | None:
    """(component, purchase) of a description; whole names are compared, so that no family is taken for another."""
    name, _, _ = description.partition(" running in ")
    purchase = {"OnDemand": "on_demand", "Preemptible": "spot"}.get(usage)
    if _MARKS["flex_start"] in description:
        purchase = "flex_start"
    if purchase is None:
        return None
    for mark in ("Spot Preemptible ", "DWS "):
        name = name.removeprefix(mark)
    name = name.partition(" attached to ")[0].strip()
    known = {part for pair in COMPONENTS.values() for part in pair} | set(GPUS.values()) | {DISK}
    return (name, purchase) if name in known else None


def _usd(sku: Mapping[str, Any]) -> float | None:
    """Unit price of the last tier, USD."""
    try:
        expression = sku["pricingInfo"][-1]["pricingExpression"]
        price = expression["tieredRates"][-1]["unitPrice"]
        value = int(price.get("units") or 0) + int(price.get("nanos") or 0) / 1e9
        value = value / HOURS_PER_MONTH if str(expression.get("usageUnit", "")).endswith(".mo") else value
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return value if value > 0 else None


def _price(rates: Rates, machine: Offer, region: str) -> Price | None:
    """The price of one machine type bought in one way; None unless all its components are known."""
    purchase = machine.purchase
    listed = _sum(rates, machine, region, "on_demand")
    own = _sum(rates, machine, region, purchase)
    disk = 0.0 if purchase == "on_demand" else _disk(rates, machine, region, purchase)
    if listed is None or own is None or disk is None:
        return None
    return Price(machine.instance, machine.accelerator, region, purchase, with_management_fee(listed, own + disk))


def _sum(rates: Rates, machine: Offer, region: str, purchase: str) -> float | None:
    core, memory = COMPONENTS.get(machine.instance.partition("-")[0], ("", ""))
    amounts = (
        (core, float(machine.vcpus)),
        (memory, machine.host_memory_bytes / 2**30),
        (GPUS.get(machine.accelerator, ""), float(machine.gpu_count)),
    )
    parts = [(rates.get((name, region, purchase)), amount) for name, amount in amounts]
    return None if any(rate is None for rate, _ in parts) else sum((rate or 0.0) * amount for rate, amount in parts)


def _disk(rates: Rates, machine: Offer, region: str, purchase: str) -> float | None:
    if not machine.local_disk_bytes or machine.instance.startswith("g2"):
        return 0.0
    rate = rates.get((DISK, region, purchase))
    return None if rate is None else rate * machine.local_disk_bytes / 1e9  # the tables' GB of a local disk are the bill's GiB
