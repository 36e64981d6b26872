"""Builds the values that tests of a job's life need: a plan by hand, a session over a temporary home, a stand-in trainer.

The stand-in trainer (tests/standin_trainer.py) is a real process that writes the contract's files in milliseconds;
everything else is the product's own code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudtune.clock import Clock, SystemClock
from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.planning.plan import Chosen, DataStats, Plan
from cloudtune.providers.base import Place, Request
from cloudtune.providers.local.place import connect
from cloudtune.providers.scripted import ScriptedJobs, scripted_place
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.session import Session
from cloudtune.settings import Settings

STANDIN = Path(__file__).with_name("standin_trainer.py")


def recipe(name: str = "little", *, data: str = "./rows.jsonl", **changes: Any) -> Recipe:
    """A whole recipe on the quickstart base; ``changes`` replace top-level keys."""
    body: dict[str, Any] = {
        "version": 1,
        "name": name,
        "model": {"base": "builtin:quickstart"},
        "method": {"type": "lora"},
        "data": {"train": [{"path": data, "format": "completion"}]},
        "training": {"max_steps": 20, "learning_rate": 2e-4, "save_steps": 10, "eval_steps": 10, "micro_batch_size": 4, "batch_size": 4},
        "compute": {"provider": "local"},
    }
    return Recipe.model_validate({**body, **changes})


def plan(folder: Path, *, name: str = "little", usd_per_hour: float = 0.0, max_seconds: int | None = None, **changes: Any) -> Plan:
    """A plan for this machine whose data file lies in ``folder`` (written when missing); no planner is asked."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows.write_text("".join(json.dumps({"prompt": f"{i} + 1 =", "completion": f" {i + 1}"}) + "\n" for i in range(64)))
    written = recipe(name, **changes)
    return Plan(
        cloudtune_version="0.1.0",
        recipe=written,
        recipe_dir=str(folder),
        recipe_digest=hashlib.sha256(written.model_dump_json().encode()).hexdigest(),
        resolved=written,
        memory=estimate(),
        layout=Layout(nodes=1, gpus=0, micro_batch_size=4, gradient_accumulation_steps=1, gradient_checkpointing=False),
        chosen=Chosen(
            provider="local", region="here", instance="this-machine", purchase="owned", gpu="cpu",
            gpu_bytes=8 << 30, usd_per_hour=usd_per_hour, price_date="",
        ),
        data=DataStats(rows=64, tokens=640, mean_tokens=10.0, longest_tokens=12, basis="counted"),
        steps=20, hours=0.01, hours_low=0.005, hours_high=0.02, usd=0.0, usd_low=0.0, usd_high=0.0,
        max_seconds=max_seconds, candidates=(), rejected=(),
    )  # fmt: skip


def estimate() -> Estimate:
    """A memory estimate of one part."""
    return Estimate(
        peak_bytes=1 << 30, allocated_bytes=1 << 29, reserved_bytes=1 << 29, context_bytes=1 << 29, error_bar=0.3,
        low_bytes=700 << 20, high_bytes=1400 << 20, parts=(MemoryPart(name="all", bytes=1 << 30),),
    )  # fmt: skip


def standin_place(home: Path, options: Sequence[str] = (), clock: Clock | None = None, *, grace_seconds: float | None = None) -> Place:
    """The place ``local`` whose jobs run the stand-in trainer with ``options`` instead of the real one."""
    place = connect(Settings(home, home / "cache"), clock or SystemClock())
    build = place.build_request

    def build_request(plan: Plan, staged: Any, launch_id: Any) -> Request:
        request = build(plan, staged, launch_id)
        body = {**request.body, "command": ["python", str(STANDIN), *options]}
        if grace_seconds is not None:
            body["grace_seconds"] = grace_seconds
        return replace(request, body=body)

    return replace(place, build_request=build_request, preflight=None)


def scripted_session(home: Path, jobs: ScriptedJobs, clock: Clock | None = None) -> Session:
    """A session over ``home`` whose only place is the scripted one; plans for it come from ``scripted_plan``."""
    settings = Settings(home, home / "cache")
    return Session(settings, clock or SystemClock(), places={"scripted": scripted_place(jobs)})


def scripted_plan(folder: Path, **changes: Any) -> Plan:
    """A plan that is launched at the scripted provider."""
    local = plan(folder, **changes)
    return local.model_copy(update={"chosen": local.chosen.model_copy(update={"provider": "scripted"})})


def session(home: Path, options: Sequence[str] = (), clock: Clock | None = None, *, grace_seconds: float | None = None) -> Session:
    """A session over ``home`` whose local jobs run the stand-in trainer."""
    clock = clock or SystemClock()
    places = {"local": standin_place(home, options, clock, grace_seconds=grace_seconds)}
    return Session(Settings(home, home / "cache"), clock, places=places)
