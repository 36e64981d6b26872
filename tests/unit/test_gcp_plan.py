"""What a plan says about Google's machines: three ways to buy side by side, both clouds compared, and the rights to ask for."""

from pathlib import Path

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.cost import billed_seconds, with_management_fee
from cloudtune.errors import UsageError
from cloudtune.offers.catalog import Catalog, Price, catalog_file, to_text
from cloudtune.offers.lookup import load_offers
from cloudtune.planning.decide import decide
from cloudtune.providers.gcp.policy import BUCKET_PERMISSIONS, PERMISSIONS, policies
from cloudtune.recipe.load import load_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.doctor import needed_policies
from cloudtune.verbs.market import known_offers
from cloudtune.verbs.plan import gather
from cloudtune.verbs.render import render

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "llama-3.1-8b-qlora.yaml"


def planned(tmp_path, provider, *sets):
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    return decide(gather(load_file(RECIPE, overrides=sets), provider=provider, session=session))


def test_three_prices_of_one_machine_stand_side_by_side(tmp_path):
    plan = planned(tmp_path, "gcp", "compute.instance=a3-highgpu-8g", "compute.purchase=any")
    rates = {one.purchase: one.usd / one.hours for one in plan.candidates}
    assert rates.keys() == {"on_demand", "spot", "flex_start"}
    assert rates["flex_start"] < rates["spot"] < rates["on_demand"]
    assert plan.chosen.purchase == "flex_start"


def test_both_clouds_are_compared_by_what_they_cost(tmp_path):
    plan = planned(tmp_path, None, "compute.purchase=any")
    assert {one.provider for one in plan.candidates} >= {"aws", "gcp"}
    assert plan.candidates[0].risk_usd == min(one.risk_usd for one in plan.candidates)
    first = plan.candidates[0]
    assert (first.provider, first.instance, first.purchase) == (plan.chosen.provider, plan.chosen.instance, plan.chosen.purchase)


def test_one_recipe_is_one_image_on_both_clouds(tmp_path):
    bundles = {name: render(planned(tmp_path, name)) for name in ("aws", "gcp")}
    assert bundles["aws"].image_digest == bundles["gcp"].image_digest
    assert bundles["aws"].image == bundles["gcp"].image
    assert bundles["aws"].image_digest != render(planned(tmp_path, "local")).image_digest, "a machine without a GPU has an image of its own"


def test_no_plan_takes_a_card_that_the_image_does_not_know(tmp_path):
    plan = planned(tmp_path, "gcp", "compute.purchase=any")
    assert not [one for one in plan.candidates if one.instance.startswith(("g4-", "a4-"))]
    assert any("CUDA 12.6" in one.reason for one in plan.rejected)


def test_a_price_alone_makes_no_machine_where_the_region_has_no_such_card(tmp_path):
    """A refreshed catalog has Compute Engine's prices, also of regions where Vertex AI does not train on the card."""
    prices = (
        Price("g2-standard-8", "NVIDIA_L4", "europe-west1", "on_demand", 1.1),
        Price("g2-standard-8", "NVIDIA_L4", "europe-west2", "on_demand", 1.2),
    )
    path = catalog_file(tmp_path, "gcp")
    path.parent.mkdir(parents=True)
    path.write_text(to_text(Catalog("gcp", "2026-11-20", "test", prices)))
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    blocked = {offer.region: offer.blocked for offer in known_offers("gcp", session) if offer.instance == "g2-standard-8"}
    assert "no L4 for training in europe-west1" in blocked["europe-west1"]
    assert blocked["europe-west2"] == blocked["us-central1"] == ""


def test_the_fee_is_a_share_of_the_list_price_however_it_is_bought():
    """g2-standard-8 in us-central1, 2026-08-20: list 0.853624, spot 0.512012 on Compute Engine."""
    prices = {offer.purchase: offer.usd_per_hour for offer in load_offers("gcp") if offer.instance == "g2-standard-8"}
    assert with_management_fee(0.853624, 0.853624) == pytest.approx(prices["on_demand"], rel=1e-3)
    assert with_management_fee(0.853624, 0.512012) == pytest.approx(prices["spot"], rel=1e-3)


@pytest.mark.parametrize(("seconds", "billed"), [(0, 0), (0.1, 30), (30, 30), (30.5, 60), (3599, 3600), (-5, 0)])
def test_time_is_billed_in_steps_of_half_a_minute(seconds, billed):
    assert billed_seconds(seconds) == billed


def test_the_roles_name_the_project_the_bucket_and_the_account(tmp_path):
    settings = Settings(
        home=tmp_path, cache=tmp_path, gcp_project="p-1", gcp_bucket="b-1", gcp_service_account="t@p-1.iam.gserviceaccount.com"
    )
    told = needed_policies(Session(settings, VirtualClock()), "gcp")
    assert told == policies("p-1", "b-1", "t@p-1.iam.gserviceaccount.com")
    assert {"roles/aiplatform.user", "roles/iam.serviceAccountUser"} <= {one["role"] for one in told["you"]}
    assert any("gs://b-1" in command and "t@p-1" in command for command in told["commands"])
    assert "storage.admin" not in str(told)
    assert len(PERMISSIONS) == len(BUCKET_PERMISSIONS) == 4
    with pytest.raises(UsageError, match="aws and gcp"):
        needed_policies(Session(settings, VirtualClock()), "local")
