"""Plans as text: they fit terminals, say machine, memory and price, and put machines with one reason on one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloudtune.memory.estimate import MemoryPart
from cloudtune.planning.plan import Candidate, Plan, Rejected
from cloudtune.recipe.layout import Layout
from cloudtune.show.tables import memory_lines, plan_lines, price_words, rejected_lines
from cloudtune.show.text import Page, cells
from tests import builders

LAYOUT = Layout(nodes=2, gpus=8, micro_batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=True, sharding="fsdp")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return builders.plan(tmp_path)


def in_the_cloud(plan: Plan) -> Plan:
    """The plan on two rented machines, with many others weighed."""
    chosen = plan.chosen.model_copy(
        update={
            "provider": "gcp", "region": "us-central1", "instance": "a3-ultragpu-8g", "purchase": "flex_start", "gpu": "H200-141GB",
            "gpu_bytes": 141 * 2**30, "usd_per_hour": 84.81, "price_date": "2026-09-27",
        }
    )  # fmt: skip
    candidates = tuple(
        Candidate(
            provider="gcp", region="us-central1", instance=name, purchase="flex_start",
            hours=12.5, usd=2120.25, risk_usd=2200.5, layout=LAYOUT,
        )
        for name in ("a3-ultragpu-8g", *(f"g4-standard-{number}" for number in range(100, 120)))
    )  # fmt: skip
    reason = "needs at least 22.6 GiB, has 14.6 GiB usable, which is less than half of what this recipe would take on that machine"
    rejected = tuple(
        Rejected(provider="aws", region="us-east-1", instance=f"ml.g4dn.{size}xlarge", purchase=purchase, reason=reason)
        for size in (2, 4, 8)
        for purchase in ("on_demand", "spot")
    )
    numbers = {
        "hours": 12.5,
        "hours_low": 8.0,
        "hours_high": 30.0,
        "usd": 2120.25,
        "usd_low": 1356.96,
        "usd_high": 5088.6,
        "max_seconds": 90_000,
    }
    return plan.model_copy(update={"chosen": chosen, "layout": LAYOUT, "candidates": candidates, "rejected": rejected, **numbers})


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("cloud", [False, True])
def test_a_plan_fits_the_terminal(plan: Plan, width: int, cloud: bool) -> None:
    lines = plan_lines(in_the_cloud(plan) if cloud else plan, Page(width, colour=True))
    assert [line for line in lines if cells(line) > width] == []


def test_a_plan_says_machine_layout_and_price(plan: Plan) -> None:
    text = "\n".join(plan_lines(in_the_cloud(plan), Page()))
    assert "gcp us-central1, a3-ultragpu-8g, flex start, 8 x H200-141GB with 141.0 GiB, 2 machines" in text
    assert "micro batch 1 x accumulation 4 x 16 workers = 64 sequences per step, gradient checkpointing, fsdp" in text
    assert "$2,120.25 ($1,356.96 to $5,088.60) at $84.81 per hour x 2 machines, prices of 2026-09-27" in text
    assert "stopped after 25 h 00 min whatever happens" in text
    assert "and 13 more; --json lists all" in text
    assert next(line for line in text.splitlines() if line.startswith("*")).split()[3] == "a3-ultragpu-8g"


def test_your_own_machine_costs_nothing(plan: Plan) -> None:
    assert price_words(plan) == "nothing, it is your own machine"


def test_machines_with_one_reason_share_a_line(plan: Plan) -> None:
    lines = rejected_lines(in_the_cloud(plan).rejected, Page())
    assert len(lines) == 2
    assert lines[1].startswith("  aws ml.g4dn.2xlarge and 2 more  needs at least 22.6 GiB")


def test_small_parts_of_the_memory_are_put_together(plan: Plan) -> None:
    parts = tuple(
        MemoryPart(name=name, bytes=size) for name, size in (("big", 900), ("tiny", 5), ("smaller", 3), ("nothing", 0), ("middle", 92))
    )
    memory = replace(plan.memory, parts=parts, peak_bytes=1000, error_bar=0.05)
    names = [line.split("  ")[1] for line in memory_lines(memory, None, Page())[1:]]
    assert names == ["big", "middle", "2 small parts"]
    assert "give or take 5%" in memory_lines(memory, None, Page())[0]
