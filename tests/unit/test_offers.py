"""Offers as data: every row of the tables visited, unknown prices kept unknown, cards with their real size, this machine."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cloudtune.errors import UsageError
from cloudtune.offers import lookup
from cloudtune.offers.lookup import PROVIDERS, gpus, known_regions, load_offers, local_offer
from cloudtune.offers.offer import WORDS, Gpu, Offer, unsupported
from cloudtune.offers.spot import with_managed_spot
from cloudtune.units import GIB, MIB

TABLES = Path(lookup.__file__).with_name("tables")
COLLECTED = date(2026, 11, 23)
ROWS = {"aws": 59, "gcp": 104}


def listed(provider: str) -> list[Offer]:
    """Offers that are rows of a table; AWS publishes no spot prices, so its spot offers are derived (tests of their own)."""
    return [offer for offer in load_offers(provider) if (provider, offer.purchase) != ("aws", "spot")]


def rows(name: str) -> list[dict[str, str]]:
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_row_is_an_offer(provider: str) -> None:
    offers, written = listed(provider), rows(provider)
    assert len(offers) == len(written) == ROWS[provider]
    for offer, row in zip(offers, written, strict=True):
        assert (offer.provider, offer.instance, offer.region, offer.purchase) == (provider, row["instance"], row["region"], row["purchase"])
        assert offer.gpu == gpus()[row["gpu"]]
        assert offer.gpu_count >= 1
        assert offer.vcpus >= 1
        assert offer.host_memory_bytes >= 8 * GIB
        assert offer.local_disk_bytes >= 0
        assert offer.purchase in ("on_demand", "spot", "flex_start", "reserved")
        assert offer.region
        assert offer.source
        assert (offer.accelerator != "") == (provider == "gcp")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_price_has_a_date_and_an_unknown_one_stays_unknown(provider: str) -> None:
    unknown = 0
    for offer, row in zip(listed(provider), rows(provider), strict=True):
        if row["usd_per_hour"] == "":
            assert offer.usd_per_hour is None
            assert offer.price_date == ""
            unknown += 1
        else:
            assert offer.usd_per_hour == float(row["usd_per_hour"]) > 0.1
            assert date(2025, 8, 1) <= date.fromisoformat(offer.price_date) <= COLLECTED
    assert unknown == {"aws": 17, "gcp": 42}[provider]


def test_managed_spot_of_an_unknown_price_is_unknown_too() -> None:
    known = load_offers("aws")[0]
    twins = [offer for offer in with_managed_spot([replace(known, usd_per_hour=None), known]) if offer.purchase == "spot"]
    assert [twin.usd_per_hour is None for twin in twins] == [True, False]


def test_no_offer_is_there_twice() -> None:
    keys = Counter(
        (offer.provider, offer.region, offer.instance, offer.gpu.name, offer.gpu_count, offer.purchase)
        for provider in PROVIDERS
        for offer in load_offers(provider)
    )
    assert max(keys.values()) == 1


def test_purchases_and_regions() -> None:
    assert {offer.purchase for offer in listed("aws")} == {"on_demand"}
    assert {offer.purchase for offer in load_offers("gcp")} == {"on_demand", "spot", "flex_start", "reserved"}
    assert known_regions("aws") == ("us-east-1", "us-west-2")
    assert known_regions("gcp") == ("us-central1",)
    assert {offer.region for offer in load_offers("aws", ["us-west-2", "eu-north-1"])} == {"us-west-2"}
    assert load_offers("aws", []) == ()
    with pytest.raises(UsageError, match="azure"):
        load_offers("azure")


def by_key(provider: str, instance: str, purchase: str = "on_demand") -> float | None:
    (price,) = {offer.usd_per_hour for offer in load_offers(provider) if (offer.instance, offer.purchase) == (instance, purchase)}
    return price


def test_prices_that_people_know() -> None:
    assert by_key("aws", "ml.g5.2xlarge") == 1.515
    assert by_key("aws", "ml.g4dn.xlarge") == 0.7364
    assert by_key("gcp", "g2-standard-8") == 0.9817
    assert by_key("gcp", "g2-standard-8", "spot") == 0.6401
    assert by_key("gcp", "a3-highgpu-8g", "flex_start") == 51.495
    assert by_key("aws", "ml.p5e.48xlarge") is None


def test_small_h100_machines_of_vertex_are_not_sold_on_demand() -> None:
    assert {offer.purchase for offer in load_offers("gcp") if offer.instance == "a3-highgpu-1g"} == {"spot", "flex_start"}


def test_what_our_jobs_cannot_use_says_why() -> None:
    blocked = {
        (offer.provider, offer.gpu.name): offer.blocked for provider in PROVIDERS for offer in load_offers(provider) if offer.blocked
    }
    assert set(blocked) == {
        ("aws", "Trainium"),
        ("aws", "Trainium2"),
        ("aws", "GB200"),
        ("aws", "V100-16GB"),
        ("aws", "V100-32GB"),
        ("gcp", "P100"),
        ("gcp", "GB200"),
        ("gcp", "RTX PRO 6000"),
        ("gcp", "B200"),
    }
    assert "arm64" in blocked["gcp", "GB200"]
    assert "CUDA" in blocked["aws", "Trainium"]
    assert all(offer.blocked for provider in PROVIDERS for offer in load_offers(provider) if not offer.gpu.compute_capability)


def test_cards_are_smaller_than_their_names() -> None:
    nominal = {row["name"]: float(row["nominal_gib"]) * GIB for row in rows("gpus")}
    assert len(gpus()) == len(nominal) == 18
    for name, card in gpus().items():
        assert 0.85 * nominal[name] < card.memory_bytes < nominal[name]
        assert card.bf16 == (card.compute_capability >= 8.0)
    assert gpus()["T4"].memory_bytes == 14912 * MIB
    assert {name for name, card in gpus().items() if card.memory_basis == "nominal"} == {"P100", "RTX PRO 4500", "Trainium", "Trainium2"}
    used = {offer.gpu.name for provider in PROVIDERS for offer in load_offers(provider)}
    assert used == set(gpus()), "a card that nobody offers, or an offer of an unknown card"


@pytest.mark.parametrize(
    ("card", "words", "says"),
    [
        ("T4", ["bfloat16"], "float16"),
        ("T4", ["float16", "nf4", "int8", "cuda13"], None),
        ("T4", ["flash_attention_2"], "sdpa"),
        ("V100-16GB", ["cuda13"], "12.6"),
        ("V100-16GB", ["int8"], "nf4"),
        ("V100-16GB", ["cuda12.6", "float16"], None),
        ("B200", ["cuda12.6"], "12.8"),
        ("RTX PRO 6000", ["cuda13", "bfloat16", "flash_attention_2"], None),
        ("L4", ["bfloat16", "flash_attention_2", "int8", "cuda13", "cuda12.6"], None),
        ("A100-40GB", ["something else"], None),
    ],
)
def test_combinations_that_do_not_work(card: str, words: list[str], says: str | None) -> None:
    reason = unsupported(gpus()[card], *words)
    if says is None:
        assert reason is None
    else:
        assert reason is not None
        assert reason.startswith(card)
        assert says in reason


def test_a_card_of_unknown_age_is_let_pass() -> None:
    assert unsupported(Gpu("strange", 1, 0.0, bf16=False), *WORDS) is None


def test_this_machine_without_gpu() -> None:
    offer = local_offer(cores=2, memory_bytes=8 * GIB)
    assert (offer.provider, offer.purchase, offer.usd_per_hour, offer.gpu_count) == ("local", "owned", 0.0, 0)
    assert (offer.vcpus, offer.host_memory_bytes, offer.price_date, offer.blocked) == (2, 8 * GIB, "", "")
    assert local_offer(cores=2, memory_bytes=1, gpu_name="NVIDIA L4", gpu_count=0).gpu_count == 0


@pytest.mark.parametrize(
    ("name", "reported_mib", "table", "capability"),
    [
        ("Tesla T4", 15360, "T4", 7.5),
        ("NVIDIA A10G", 23028, "A10G", 8.6),
        ("NVIDIA L4", 23034, "L4", 8.9),
        ("NVIDIA L40S", 46068, "L40S", 8.9),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100-40GB", 8.0),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80GB", 8.0),
        ("NVIDIA H100 80GB HBM3", 81559, "H100-80GB", 9.0),
        ("NVIDIA H200", 143771, "H200", 9.0),
        ("Tesla V100-SXM2-32GB", 32768, "V100-32GB", 7.0),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "RTX PRO 6000", 12.0),
    ],
)
def test_this_machines_card_is_recognised(name: str, reported_mib: int, table: str, capability: float) -> None:
    offer = local_offer(cores=8, memory_bytes=64 * GIB, gpu_name=name, gpu_memory_bytes=reported_mib * MIB, gpu_count=2)
    assert offer.gpu.memory_bytes == gpus()[table].memory_bytes
    assert (offer.gpu.name, offer.gpu_count) == (table, 2)
    assert (offer.gpu.compute_capability, offer.gpu.bf16) == (capability, capability >= 8)


def test_an_unknown_card_keeps_what_it_says_less_the_drivers_share() -> None:
    offer = local_offer(
        cores=8,
        memory_bytes=64 * GIB,
        gpu_name="NVIDIA GeForce RTX 4090",
        gpu_memory_bytes=24564 * MIB,
        gpu_count=1,
        compute_capability=8.9,
    )
    assert (offer.gpu.name, offer.gpu.bf16) == ("GeForce RTX 4090", True)
    assert 0.96 * 24564 * MIB < offer.gpu.memory_bytes < 24564 * MIB
