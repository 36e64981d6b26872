"""The body of CreateCustomJob: valid for any plan, and for each way of buying machines, network, keys and reservations."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtune.clock import VirtualClock
from cloudtune.errors import RejectedError, UsageError
from cloudtune.job import LaunchId
from cloudtune.planning.decide import decide
from cloudtune.providers.base import Staged
from cloudtune.providers.gcp.limits import violations
from cloudtune.providers.gcp.machines import MACHINES, availability, pair_fault, purchase_fault
from cloudtune.providers.gcp.request import build_request
from cloudtune.recipe.load import load_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import gather
from tests.unit.gcp_builders import DIGEST, TRAINER, Project, body_of, gcp_plan

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
KEY = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
RESERVATION = "projects/p/zones/us-central1-a/reservations/mine"


def spec(body):
    return body["customJob"]["jobSpec"]


def first(body):
    return spec(body)["workerPoolSpecs"][0]


def environment(body):
    return {one["name"]: one["value"] for one in first(body)["containerSpec"]["env"]}


def test_there_are_thirteen_recipes():
    assert len(RECIPES) == 13


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_has_a_body(path, tmp_path):
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    plan = decide(gather(load_file(path), provider="gcp", session=session))
    body = body_of(plan, launch_id=f"{plan.recipe.name}-abcdefghjk")
    assert violations(body) == ()
    machine = first(body)["machineSpec"]
    assert (machine["machineType"], machine["acceleratorCount"]) == (plan.chosen.instance, plan.layout.gpus)
    assert sum(pool["replicaCount"] for pool in spec(body)["workerPoolSpecs"]) == plan.layout.nodes
    assert (
        spec(body)["scheduling"]["strategy"] == {"on_demand": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START"}[plan.chosen.purchase]
    )
    assert first(body)["diskSpec"]["bootDiskSizeGb"] >= max(100, plan.resolved.compute.disk_gib)
    assert "HF_TOKEN" not in json.dumps(body)


PAIRS = sorted((machine, card, count) for machine, cards in MACHINES.items() for card, counts in cards.items() for count in counts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_valid_plan_gives_a_body_within_the_limits(data, tmp_path):
    machine, card, count = data.draw(st.sampled_from(PAIRS))
    purchase = data.draw(st.sampled_from(["on_demand", "spot", "flex_start"]))
    strategy = {"on_demand": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START"}[purchase]
    reserved = purchase == "on_demand" and data.draw(st.booleans())
    plan = gcp_plan(
        tmp_path,
        instance=machine,
        accelerator=card,
        gpus=count,
        purchase=purchase,
        nodes=data.draw(st.integers(1, 64)),
        disk_gib=data.draw(st.integers(1, 60_000)),
        name=data.draw(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)),
        gcp={"kms_key": data.draw(st.sampled_from([None, KEY])), "reservation": RESERVATION if reserved else None},
        update={"max_seconds": data.draw(st.none() | st.integers(1, 10**9)), "hours_high": data.draw(st.floats(0, 1e5))},
    )
    launch_id = f"{plan.recipe.name}-abcdefghjk"
    if purchase_fault(machine, card, strategy, reserved=reserved):
        with pytest.raises(RejectedError, match="would refuse"):
            body_of(plan, launch_id=launch_id)
        return
    body = body_of(plan, launch_id=launch_id)
    assert violations(body) == ()
    assert body == body_of(plan, launch_id=launch_id)
    timeout = int(spec(body)["scheduling"]["timeout"].removesuffix("s"))
    assert timeout >= 1
    assert plan.max_seconds is None or timeout <= plan.max_seconds


def test_the_three_ways_to_buy(tmp_path):
    found = {way: spec(body_of(gcp_plan(tmp_path, purchase=way, update={"max_seconds": 3600})))["scheduling"]
             for way in ("on_demand", "spot", "flex_start")}  # fmt: skip
    common = {"timeout": "3480s", "restartJobOnWorkerRestart": False, "disableRetries": False}
    assert found["on_demand"] == {**common, "strategy": "STANDARD"}
    assert found["spot"] == {**common, "strategy": "SPOT"}
    assert found["flex_start"] == {**common, "strategy": "FLEX_START", "maxWaitDuration": "86400s"}


def test_a_time_limit_is_always_there(tmp_path):
    assert spec(body_of(gcp_plan(tmp_path)))["scheduling"]["timeout"] == "28800s"  # twice the longest estimate
    assert spec(body_of(gcp_plan(tmp_path, update={"hours_high": 0.1})))["scheduling"]["timeout"] == "7200s"


def test_several_machines_are_two_pools_alike(tmp_path):
    body = body_of(gcp_plan(tmp_path, nodes=4))
    primary, workers = spec(body)["workerPoolSpecs"]
    assert (primary.pop("replicaCount"), workers.pop("replicaCount")) == (1, 3)
    assert primary == workers
    assert spec(body)["scheduling"]["restartJobOnWorkerRestart"] is True


def test_the_newest_machines_read_googles_network_settings_first(tmp_path):
    plan = gcp_plan(tmp_path, instance="a3-ultragpu-8g", accelerator="NVIDIA_H200_141GB", gpus=8, nodes=2)
    assert "set_nccl_env.sh" in first(body_of(plan))["containerSpec"]["command"][2]
    assert first(body_of(plan))["diskSpec"]["bootDiskType"] == "hyperdisk-balanced"
    assert first(body_of(gcp_plan(tmp_path)))["containerSpec"]["args"] == ["train"]


def test_account_network_key_and_reservation(tmp_path):
    gcp = {"service_account": TRAINER, "network": "projects/1/global/networks/n", "kms_key": KEY, "reservation": RESERVATION}
    body = body_of(gcp_plan(tmp_path, gcp=gcp))
    assert (spec(body)["serviceAccount"], spec(body)["network"]) == (TRAINER, "projects/1/global/networks/n")
    assert body["customJob"]["encryptionSpec"] == {"kmsKeyName": KEY}
    assert first(body)["machineSpec"]["reservationAffinity"] == {
        "reservationAffinityType": "SPECIFIC_RESERVATION",
        "key": "compute.googleapis.com/reservation-name",
        "values": [RESERVATION],
    }
    settings = Project(gcp_service_account="of-the-settings@my-project.iam.gserviceaccount.com")
    assert spec(body_of(gcp_plan(tmp_path, gcp=gcp), settings=settings))["serviceAccount"] == TRAINER
    assert spec(body_of(gcp_plan(tmp_path), settings=settings))["serviceAccount"] == settings.gcp_service_account
    with pytest.raises(RejectedError, match="from a reservation and be spot"):
        body_of(gcp_plan(tmp_path, gcp={"reservation": RESERVATION}, purchase="spot"))


def test_labels_are_legal_and_find_the_job(tmp_path):
    labels = body_of(gcp_plan(tmp_path))["customJob"]["labels"]
    assert labels["cloudtune_run"] == "little-abcdefghjk"
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,62}", key) and re.fullmatch(r"[a-z0-9_-]{1,63}", value) for key, value in labels.items())


def test_staged_places_and_the_image(tmp_path):
    plan = gcp_plan(tmp_path)
    inputs = json.loads(environment(body_of(plan))["CLOUDTUNE_INPUTS"])
    assert inputs == {
        "job/job.json": f"gs://my-bucket/cloudtune/not-staged/{DIGEST}/job/job.json",
        "train/0-rows.jsonl": f"gs://my-bucket/cloudtune/not-staged/{DIGEST}/train/0-rows.jsonl",
    }
    image = f"us-docker.pkg.dev/p/r/ours@sha256:{DIGEST}"
    staged = {"image": image, "job/job.json": "gs://b/cloudtune/files/1", "train/0-rows.jsonl": "gs://b/cloudtune/files/2"}
    body = body_of(plan, **staged)
    assert first(body)["containerSpec"]["imageUri"] == image
    assert json.loads(environment(body)["CLOUDTUNE_INPUTS"]) == {key: uri for key, uri in staged.items() if key != "image"}
    assert environment(body)["CLOUDTUNE_OWNER"] == "gs://my-bucket/cloudtune/jobs/little-abcdefghjk/owner"


def test_the_nonce_follows_the_content(tmp_path):
    plan = gcp_plan(tmp_path)
    nonces = [body_of(one)["customJob"]["labels"]["cloudtune_nonce"] for one in (plan, plan, gcp_plan(tmp_path, nodes=2))]
    assert nonces[0] == nonces[1] != nonces[2]


def test_missing_settings_are_named_all_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        build_request(gcp_plan(tmp_path), Staged(DIGEST), LaunchId("x-abc"), Project(None, None, None))
    assert "gcp_project and gcp_bucket and gcp_region" in caught.value.what
    assert "CLOUDTUNE_GCP_REGION=us-central1" in caught.value.hint
    with pytest.raises(UsageError, match="gcp_region is europe-west4"):
        build_request(gcp_plan(tmp_path), Staged(DIGEST), LaunchId("x-abc"), Project(gcp_region="europe-west4"))


def test_secrets_that_the_job_could_not_read_are_refused(tmp_path):
    with pytest.raises(RejectedError, match="TOKEN is Amazon's"):
        body_of(gcp_plan(tmp_path, secrets={"TOKEN": "aws:secretsmanager:token"}))
    google = gcp_plan(tmp_path, secrets={"TOKEN": "gcp:secretmanager:token"})
    with pytest.raises(RejectedError, match="none is set"):
        body_of(google)
    assert "TOKEN" not in json.dumps(body_of(google, settings=Project(gcp_service_account=TRAINER)))


def test_data_in_cloud_storage_is_linked_from_where_it_is(tmp_path):
    inputs = json.loads(environment(body_of(gcp_plan(tmp_path, data="gs://b/rows.jsonl", model={"base": "gs://b/m/"})))["CLOUDTUNE_INPUTS"])
    assert (inputs["train-0/rows.jsonl"], inputs["model"]) == ("gs://b/rows.jsonl", "gs://b/m")
    with pytest.raises(RejectedError, match="Amazon's"):
        body_of(gcp_plan(tmp_path, model={"base": "s3://their-bucket/model"}))


def test_a_name_that_looks_like_a_variable_is_not_expanded_by_the_service(tmp_path):
    env = first(body_of(gcp_plan(tmp_path, data="gs://theirs/$(HOME).jsonl")))["containerSpec"]["env"]
    assert '"gs://theirs/$$(HOME).jsonl"' in next(item["value"] for item in env if item["name"] == "CLOUDTUNE_INPUTS")


def test_data_in_s3_is_read_from_its_copy(tmp_path):
    plan = gcp_plan(tmp_path, data="s3://their-bucket/deep/rows.jsonl")
    before = json.loads(environment(body_of(plan))["CLOUDTUNE_INPUTS"])
    assert before["train-0/rows.jsonl"] == f"gs://my-bucket/cloudtune/not-staged/{DIGEST}/train-0/rows.jsonl"
    after = body_of(plan, **{"train-0/rows.jsonl": "gs://my-bucket/cloudtune/files/1"})
    assert json.loads(environment(after)["CLOUDTUNE_INPUTS"])["train-0/rows.jsonl"] == "gs://my-bucket/cloudtune/files/1"


@pytest.mark.parametrize(
    ("machine", "card", "count", "fault"),
    [
        ("g2-standard-8", "NVIDIA_L4", 1, ""), ("g2-standard-8", "NVIDIA_L4", 2, "comes with 1"),
        ("g2-standard-8", "NVIDIA_TESLA_T4", 1, "does not come with"), ("g2-standard-8", "", 0, "needs its accelerator"),
        ("n1-standard-32", "NVIDIA_TESLA_T4", 1, "comes with 2 or 4"), ("n1-standard-96", "NVIDIA_TESLA_V100", 8, ""),
        ("n1-standard-2", "NVIDIA_TESLA_T4", 1, "no machine type"), ("n1-standard-8", "NVIDIA_TESLA_P100", 1, "support ended"),
        ("g4-standard-12", "NVIDIA_RTX_PRO_6000", 1, "no machine type"), ("e2-standard-8", "", 0, ""), ("n1-standard-8", "", 0, ""),
    ],
)  # fmt: skip
def test_machines_and_cards(machine, card, count, fault):
    found = pair_fault(machine, card, count)
    assert found.startswith(fault) or fault in found
    assert bool(found) == bool(fault)


def test_every_offer_of_the_price_table_is_legal_or_blocked():
    from cloudtune.offers.lookup import load_offers

    offers = load_offers("gcp")
    assert len(offers) > 100
    for offer in offers:
        strategy = {"on_demand": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START", "reserved": "STANDARD"}[offer.purchase]
        faults = [
            pair_fault(offer.instance, offer.accelerator, offer.gpu_count),
            purchase_fault(offer.instance, offer.accelerator, strategy, reserved=offer.purchase == "reserved"),
        ]
        assert offer.blocked or not any(faults), (offer.instance, faults)
        assert availability(offer.region, offer.accelerator) == "yes"


def test_what_a_region_is_known_not_to_have_is_refused(tmp_path):
    assert availability("europe-west1", "NVIDIA_L4") == "no"
    assert availability("europe-west2", "NVIDIA_L4") == "unknown"
    with pytest.raises(RejectedError, match="not there for training in the job's region"):
        body_of(gcp_plan(tmp_path, region="europe-west1"), settings=Project(gcp_region="europe-west1"))
