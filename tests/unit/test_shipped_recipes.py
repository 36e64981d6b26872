"""Every shipped recipe plans offline on both clouds, with a sensible choice, and documents itself. The loop counts what it visits."""

import re
import socket
from pathlib import Path

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.planning.decide import decide
from cloudtune.planning.plan import Plan
from cloudtune.recipe.load import load_file
from cloudtune.recipe.sharded import why_not_sharded
from cloudtune.rendering.jobfile import job_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import gather

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# name → (most GPUs of the choice, least GPU memory in GiB, most USD expected) that a sensible person would accept
SENSIBLE = {
    "gemma-3-12b-qlora": (1, 20, 12),
    "llama-3.1-70b-full": (8, 75, 2_500),
    "llama-3.1-70b-qlora": (4, 20, 30),
    "llama-3.1-8b-qlora": (1, 20, 6),
    "llama-3.2-3b-lora-ddp": (8, 20, 30),
    "mistral-7b-lora": (1, 20, 8),
    "modernbert-base-full": (1, 14, 2),
    "qwen3-14b-qlora-int8": (1, 20, 8),
    "qwen3-30b-a3b-qlora": (1, 70, 8),
    "qwen3-4b-lora-spot": (1, 20, 15),
    "qwen3-8b-lora": (1, 20, 8),
    "tinyllama-1.1b-full": (1, 20, 3),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No socket may be opened: planning a shipped recipe needs nothing but the repository."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("planning a shipped recipe opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def planned(name: str, provider: str, home: Path) -> Plan:
    session = Session(Settings(home=home, cache=home), VirtualClock())
    return decide(gather(load_file(RECIPES / f"{name}.yaml"), provider=provider, session=session))


def test_the_table_names_every_recipe():
    assert sorted(SENSIBLE) == sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "quickstart")
    assert len(SENSIBLE) == 12


@pytest.mark.parametrize("provider", ["aws", "gcp"])
@pytest.mark.parametrize("name", sorted(SENSIBLE))
def test_the_choice_is_sensible(name, provider, tmp_path):
    plan = planned(name, provider, tmp_path)
    most_gpus, least_gib, most_usd = SENSIBLE[name]
    assert plan.layout.sharding != "fsdp" or why_not_sharded(plan.recipe) is None
    assert not any("refuse" in text for text in plan.warnings)
    assert plan.chosen.provider == provider
    assert 1 <= plan.layout.gpus <= most_gpus
    assert plan.chosen.gpu_bytes >= least_gib * 2**30
    assert plan.memory.high_bytes <= plan.chosen.gpu_bytes
    assert 0 < plan.usd <= most_usd
    assert plan.layout.batch_size == plan.recipe.training.batch_size
    assert plan.candidates
    assert all(item.reason for item in plan.rejected)
    assert job_file(plan, {}).recipe.training.micro_batch_size == plan.layout.micro_batch_size


@pytest.mark.parametrize("name", ["llama-3.1-8b-qlora", "llama-3.1-70b-full", "qwen3-8b-lora"])
def test_a_plan_over_both_clouds_takes_few_replays(name, tmp_path):
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    weighing = gather(load_file(RECIPES / f"{name}.yaml"), provider=None, session=session).weigh()
    assert len(weighing.options) + len(weighing.rejected) > 200
    assert weighing.reckoner.replays <= 15


def test_what_each_recipe_is_there_to_show(tmp_path):
    plans = {name: planned(name, "aws", tmp_path) for name in ("llama-3.1-70b-full", "llama-3.2-3b-lora-ddp", "qwen3-4b-lora-spot")}
    assert (plans["llama-3.1-70b-full"].layout.nodes, plans["llama-3.1-70b-full"].layout.sharding) == (4, "fsdp")
    assert (plans["llama-3.2-3b-lora-ddp"].layout.gpus, plans["llama-3.2-3b-lora-ddp"].layout.sharding) == (8, "ddp")
    assert plans["qwen3-4b-lora-spot"].chosen.purchase == "spot"
    assert plans["qwen3-4b-lora-spot"].max_seconds


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_documents_itself(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert f"cloudtune plan recipes/{path.name}" in text
    assert re.fullmatch(r"[a-z0-9.-]+", path.stem)
    knobs = [line for line in text.splitlines() if re.match(r"  \w+: \S", line)]
    remarked = [line for line in knobs if "#" in line]
    assert len(remarked) >= 2, "say what a knob costs beside it"


def test_data_in_s3_is_read_on_aws_copied_for_gcp_and_not_read_here(tmp_path):
    session = Session(Settings(home=tmp_path, cache=tmp_path), VirtualClock())
    weighing = gather(load_file(RECIPES / "mistral-7b-lora.yaml"), provider=None, session=session).weigh()
    assert {option.offer.provider for option in weighing.options} == {"aws", "gcp"}
    assert any("in a bucket, which a job on this machine does not read" in item.reason for item in weighing.rejected)
    warnings = {place: planned("mistral-7b-lora", place, tmp_path).warnings for place in ("aws", "gcp")}
    assert any("copies s3://your-bucket/tickets/train.jsonl" in text for text in warnings["gcp"])
    assert not any("cannot be launched" in text for text in warnings["gcp"])
    assert not any("cannot be launched" in text or "copies" in text for text in warnings["aws"])
