"""The user's catalog over the shipped prices: later ones win, new regions appear, spot follows, files are checked."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.errors import UsageError
from cloudtune.offers.catalog import Catalog, Price, catalog_file, differences, from_text, merged, offers_of, read_catalog, to_text
from cloudtune.offers.lookup import load_offers
from tests.unit.planning_builders import offer

G5 = "ml.g5.2xlarge"


def catalog(*prices: Price, fetched: str = "2026-11-20") -> Catalog:
    return Catalog("aws", fetched, "a list", prices)


def price(usd: float = 9.0, **given) -> Price:
    return Price(**{"instance": "ml.one", "accelerator": "", "region": "us-east-1", "purchase": "on_demand", "usd_per_hour": usd, **given})


def test_a_later_price_wins_and_says_where_it_is_from():
    (found,) = merged([offer()], catalog(price()))
    assert (found.usd_per_hour, found.price_date, found.source) == (9.0, "2026-11-20", "a list")


def test_an_older_price_and_other_machines_change_nothing():
    assert merged([offer()], catalog(price(), fetched="2026-01-01")) == (offer(),)
    assert merged([offer()], catalog(price(instance="ml.other"))) == (offer(),)
    assert merged([offer()], None) == (offer(),)


def test_an_unknown_price_becomes_known():
    (found,) = merged([offer(usd_per_hour=None, price_date="")], catalog(price()))
    assert found.usd_per_hour == 9.0


def test_a_price_of_another_region_makes_an_offer_there():
    found = merged([offer()], catalog(price(region="eu-west-1")))
    assert found[0] == offer()
    assert found[1] == replace(offer(), region="eu-west-1", usd_per_hour=9.0, price_date="2026-11-20", source="a list")


def test_the_same_machine_with_another_card_is_another_offer():
    t4, v100 = offer(accelerator="T4"), offer(accelerator="V100")
    found = merged([t4, v100], catalog(price(accelerator="V100")))
    assert [one.usd_per_hour for one in found] == [1.0, 9.0]


def test_managed_spot_follows_the_fetched_price(tmp_path):
    path = catalog_file(tmp_path, "aws")
    path.parent.mkdir()
    path.write_text(to_text(catalog(price(4.0, instance=G5))))
    found = {one.purchase: one for one in offers_of("aws", tmp_path) if one.instance == G5}
    assert (found["on_demand"].usd_per_hour, found["spot"].usd_per_hour, found["spot"].usd_per_hour_high) == (4.0, 2.0, 4.0)
    assert len(offers_of("aws", tmp_path)) == len(load_offers("aws"))


def test_without_a_catalog_the_shipped_offers_are_as_they_are(tmp_path):
    assert offers_of("gcp", tmp_path) == load_offers("gcp")
    assert offers_of("aws", None) == load_offers("aws")
    assert read_catalog(tmp_path, "aws") is None


@given(st.lists(st.floats(0.01, 500, allow_nan=False), max_size=5, unique=True))
def test_a_catalog_is_read_back_equal(values):
    made = catalog(*sorted(price(value, instance=f"ml.{number}") for number, value in enumerate(values)))
    assert from_text(to_text(made), "here") == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "provider": "aws", "fetched": "soon", "source": "x", "prices": []}',
        '{"version": 1, "provider": "aws", "fetched": "2026-11-20", "source": "x", "prices": [{}]}',
        '{"version": 9, "provider": "aws", "fetched": "2026-11-20", "source": "x", "prices": []}',
        to_text(catalog(price(1.0))).replace("1.0", "-1.0"),
        to_text(catalog(price(1.0))).replace("1.0", "NaN"),
        to_text(catalog(price(1.0))).replace("1.0", "0.0"),  # a free machine would be the choice of every plan
        to_text(catalog(price(1.0))).replace("on_demand", "stolen"),
    ],
)
def test_anything_else_is_refused_with_its_place(text):
    with pytest.raises(UsageError, match="catalog") as caught:
        from_text(text, "/here/aws.json")
    assert caught.value.where == "/here/aws.json"
    assert "refresh" in caught.value.hint


def test_differences_name_what_changed_and_nothing_else():
    before, after = [offer(), offer(instance="ml.two")], [offer(usd_per_hour=2.0), offer(instance="ml.two"), offer(instance="ml.new")]
    found = [(item.instance, item.before, item.after) for item in differences(before, after)]
    assert found == [
        ("ml.new", None, 1.0),
        ("ml.one", 1.0, 2.0),
    ]
