"""Vertex AI's prices computed again from their components, wherever components are known from another source than the table's.

H100, A3 core and A3 memory: SKUs on an invoice of August 2025 (zenn.dev), all-in, so 1.15 x list; Flex-start SKUs of the same
invoice; local SSD 0.0001096 USD per GiB-hour in each way of purchase. N1 machine: Google's price page, 2026-10-07.
The rule: on demand 1.15 x list; Spot and Flex-start their own price + 15 % of list; local disks never pay the fee.
"""

from __future__ import annotations

import itertools
import re

import pytest

from cloudtune.offers.lookup import load_offers
from cloudtune.offers.offer import Offer

GIB = 2**30
TABLE_GB = 1e9  # the tables call 375 GiB disks 375 GB; the bill counts GiB
FEE = 0.15
A3_ALL_IN = {"gpu": 11.2660332, "core": 0.0293227, "memory": 0.0025534}
A3_FLEX = {"gpu": 4.200761, "core": 0.010934, "memory": 0.000952}
SSD = 0.0001096
N1_STANDARD_4 = 0.21849885
_TOTALS = re.compile(r"\(GCE (incl local SSD )?([\d.]+) / spot ([\d.]+)\)")


def priced(family: str) -> list[Offer]:
    return [offer for offer in load_offers("gcp") if offer.instance.startswith(family) and offer.usd_per_hour is not None]


def summed(offer: Offer, parts: dict[str, float]) -> float:
    """GPUs, cores and memory of one machine at these prices."""
    return offer.gpu_count * parts["gpu"] + offer.vcpus * parts["core"] + round(offer.host_memory_bytes / GIB) * parts["memory"]


def test_h100_machines_are_the_sum_of_their_skus() -> None:
    seen = []
    for offer in priced("a3-highgpu"):
        all_in = summed(offer, A3_ALL_IN)
        fee = all_in / 1.15 * FEE
        disks = offer.local_disk_bytes / TABLE_GB * SSD
        if offer.purchase == "on_demand":
            expected = all_in
        elif offer.purchase == "flex_start":
            expected = summed(offer, A3_FLEX) + disks + fee
        else:
            continue  # Spot prices move; the test below has their rule
        assert offer.usd_per_hour == pytest.approx(expected, rel=1e-3), (offer.instance, offer.purchase)
        seen.append((offer.instance, offer.purchase))
    assert seen == [
        ("a3-highgpu-1g", "flex_start"),
        ("a3-highgpu-2g", "flex_start"),
        ("a3-highgpu-4g", "flex_start"),
        ("a3-highgpu-8g", "on_demand"),
        ("a3-highgpu-8g", "flex_start"),
    ]


def test_vertex_totals_follow_the_fee_rule_from_the_compute_engine_totals() -> None:
    seen = 0
    for family in ("g2-", "g4-", "a2-", "a3-"):
        for offer in priced(family):
            totals = _TOTALS.search(offer.source)
            if totals is None:
                continue
            disks = offer.local_disk_bytes / TABLE_GB * SSD if totals[1] else 0.0
            listed, spot = float(totals[2]) - disks, float(totals[3])
            expected = 1.15 * listed if offer.purchase == "on_demand" else spot + FEE * listed
            assert offer.usd_per_hour == pytest.approx(expected, rel=1e-3), (offer.instance, offer.purchase)
            seen += 1
    assert seen >= 40


def test_n1_machines_are_machine_plus_gpus() -> None:
    per_vcpu = N1_STANDARD_4 / 4  # standard machines: 3.75 GB of memory for each core
    for gpu, listed, count in (("T4", 0.35, 6), ("V100-16GB", 2.48, 4)):
        rows = [offer for offer in priced("n1-standard") if offer.gpu.name == gpu]
        assert len(rows) == count
        for offer in rows:
            expected = per_vcpu * offer.vcpus + 1.15 * listed * offer.gpu_count
            assert offer.usd_per_hour == pytest.approx(expected, rel=1e-3), offer.instance


def test_l4_machines_are_linear_in_cores_memory_and_gpus() -> None:
    """Three shapes give the three components; all eight follow from them, on demand and as Spot."""
    for purchase in ("on_demand", "spot"):
        rows = [offer for offer in priced("g2-standard") if offer.purchase == purchase]
        by_cores = {offer.vcpus: offer for offer in rows}
        four, twelve, quarter = by_cores[4], by_cores[12], by_cores[24]
        per_core = ((twelve.usd_per_hour or 0) - (four.usd_per_hour or 0)) / 8  # with its 4 GB
        gpu = (four.usd_per_hour or 0) - 4 * per_core
        assert len(rows) == 8
        for offer in rows:
            expected = offer.gpu_count * gpu + offer.vcpus * per_core
            assert offer.usd_per_hour == pytest.approx(expected, rel=1e-3), (offer.instance, purchase)
        assert quarter.gpu_count == 2


def test_three_ways_of_purchase_stand_side_by_side_for_one_machine() -> None:
    ways = {offer.purchase: offer.usd_per_hour for offer in priced("a3-highgpu-8g")}
    assert set(ways) == {"on_demand", "spot", "flex_start"}
    assert ways["flex_start"] < ways["spot"] < ways["on_demand"]  # as billed and listed at their dates
    assert all(value for value in itertools.chain(ways.values()))
