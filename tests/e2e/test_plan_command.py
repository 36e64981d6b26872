"""``plan`` as people type it: a budget of a dollar, a plan saved and taken up again, what changed since."""

from __future__ import annotations

import json
import shutil

from tests.e2e.command import QUICKSTART, ROOT, cloudtune

BIG = ROOT / "recipes" / "llama-3.1-70b-qlora.yaml"


def test_a_budget_of_a_dollar_ends_with_exit_3_and_advice(tmp_path):
    ran = cloudtune("plan", BIG, "--set", "budget.max_usd=1", folder=tmp_path)
    assert ran.code == 3
    assert "the budget is $1.00" in ran.err
    assert "with no budget.max_usd it fits" in ran.err
    assert "Traceback" not in ran.err
    as_json = cloudtune("plan", BIG, "--set", "budget.max_usd=1", "--json", folder=tmp_path)
    assert (as_json.code, as_json.json["error"]["exit_code"]) == (3, 3)


def test_a_saved_plan_is_the_same_plan_and_says_what_changed_since(tmp_path):
    shutil.copy(QUICKSTART, tmp_path / "recipe.yaml")
    (tmp_path / "data").mkdir()
    data = tmp_path / "data" / "quickstart.jsonl"
    shutil.copy(ROOT / "recipes" / "data" / "quickstart.jsonl", data)
    saved = cloudtune("plan", "recipe.yaml", "--provider", "local", "-o", "plan.json", "--json", folder=tmp_path)
    assert saved.code == 0, saved.err
    assert json.loads((tmp_path / "plan.json").read_text()) == saved.json
    same = cloudtune("render", "plan.json", "--target", "request", folder=tmp_path)
    assert same.code == 0, same.err
    assert "has changed" not in same.err
    with data.open("a") as file:
        file.write('{"instruction": "one more", "output": "row"}\n')
    changed = cloudtune("render", "plan.json", "--target", "request", folder=tmp_path)
    assert "./data/quickstart.jsonl has changed since the plan was made" in changed.err


def test_the_json_keys_that_were_promised(tmp_path):
    plan = cloudtune("plan", ROOT / "recipes" / "llama-3.1-8b-qlora.yaml", "--json", folder=tmp_path).json
    assert {"peak_bytes", "allocated_bytes", "reserved_bytes", "context_bytes", "error_bar", "parts"} <= plan["memory"].keys()
    assert plan["memory"]["peak_bytes"] == sum(part["bytes"] for part in plan["memory"]["parts"])
    layout = {"nodes", "gpus", "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "sharding"}
    assert layout <= plan["layout"].keys()
    chosen = {"provider", "region", "instance", "purchase", "gpu", "gpu_bytes", "usd_per_hour", "price_date"}
    assert chosen <= plan["chosen"].keys()
    assert abs(plan["usd"] - plan["hours"] * plan["chosen"]["usd_per_hour"] * plan["layout"]["nodes"]) < 0.005
    assert {"provider", "region", "instance", "purchase", "hours", "usd", "risk_usd", "layout"} <= plan["candidates"][0].keys()
    assert {"instance", "reason", "needs_bytes", "has_bytes"} <= plan["rejected"][0].keys()
    assert plan["candidates"][0]["risk_usd"] == min(item["risk_usd"] for item in plan["candidates"])


def test_estimate_reckons_also_what_fits_nowhere(tmp_path):
    bigger = ["--set", "model.base=meta-llama/Llama-3.1-405B", "--set", "compute.nodes=1"]
    ran = cloudtune("estimate", ROOT / "recipes" / "llama-3.1-70b-full.yaml", *bigger, "--json", folder=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.json["candidates"] == []
    assert ran.json["memory"]["peak_bytes"] == sum(part["bytes"] for part in ran.json["memory"]["parts"]) > 2**34
    assert all(item["reason"] for item in ran.json["rejected"])


def test_adapted_modules_that_the_model_has_not_are_found_before_anything_is_paid(tmp_path):
    ran = cloudtune("plan", QUICKSTART, "--set", "method.target_modules=[q_proj, v_porj]", folder=tmp_path)
    assert ran.code == 2
    assert "no module called 'v_porj'; did you mean v_proj?" in ran.err
    none = cloudtune("estimate", QUICKSTART, "--set", "method.target_modules=[embed_tokens]", "--json", folder=tmp_path)
    assert (none.code, none.json["error"]["code"]) == (2, "bad-recipe")
