"""Small recipes, offers and memory functions that the planner's tests are made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.models.registry import find_shape
from cloudtune.models.shape import ModelShape
from cloudtune.offers.offer import NO_GPU, Gpu, Offer
from cloudtune.planning.decide import Question
from cloudtune.planning.plan import DataStats
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe
from cloudtune.units import GIB

SHAPE = find_shape("meta-llama/Llama-3.1-8B", base_dir=Path())
STATS = DataStats(rows=2_000, tokens=800_000, mean_tokens=400, longest_tokens=2_000, basis="stated")
TODAY = date(2026, 11, 23)


def recipe(**given: Any) -> Recipe:
    """A LoRA recipe; ``training``, ``compute``, ``budget``, ``method``, ``data`` replace or add keys."""
    data = {"train": [{"path": "org/set", "rows": 2_000, "tokens": 800_000}], **given.pop("data", {})}
    return Recipe.model_validate(
        {"version": 1, "name": "t", "model": {"base": "meta-llama/Llama-3.1-8B"}, "method": {"type": "lora"}, "data": data, **given}
    )


def offer(**given: Any) -> Offer:
    """One L4 machine in us-east-1 for a dollar an hour; ``memory_gib`` and ``capability`` are the GPU's."""
    gpu = Gpu(given.pop("gpu", "L4"), int(given.pop("memory_gib", 22) * GIB), given.pop("capability", 8.9), bf16=True)
    base = Offer(
        provider="aws",
        region="us-east-1",
        instance="ml.one",
        purchase="on_demand",
        gpu=gpu,
        gpu_count=1,
        vcpus=8,
        host_memory_bytes=512 * GIB,
        local_disk_bytes=0,
        interconnect="",
        usd_per_hour=1.0,
        price_date="2026-09-27",
        source="test",
    )
    return replace(base, **given)


def this_machine(**given: Any) -> Offer:
    """A CPU machine that is owned."""
    owned = replace(offer(), provider="local", region="local", instance="this-machine", purchase="owned", gpu=NO_GPU, gpu_count=0)
    return replace(owned, usd_per_hour=0.0, price_date="", host_memory_bytes=64 * GIB, **given)


def simple_memory(_recipe: Recipe, _shape: ModelShape, layout: Layout, device: Device) -> Estimate:
    """A reckoning with the right directions: weights shared by shards, activations by micro batch, less with checkpointing."""
    weights = 16 * GIB // (layout.data_parallel if layout.sharding == "fsdp" else 1)
    if layout.cpu_offload:
        weights //= 4
    size = weights + layout.micro_batch_size * (GIB // 2 if layout.gradient_checkpointing else 4 * GIB)
    return Estimate(
        peak_bytes=size,
        allocated_bytes=size,
        reserved_bytes=size,
        context_bytes=0,
        error_bar=0,
        low_bytes=size,
        high_bytes=size,
        parts=(MemoryPart(name="all", bytes=size),),
    )


def rough_memory(given: Recipe, shape: ModelShape, layout: Layout, device: Device) -> int:
    """A closed form that is a third too small."""
    return simple_memory(given, shape, layout, device).high_bytes * 2 // 3


def question(given: Recipe, *offers: Offer, provider: str | None = None, **more: Any) -> Question:
    """A question about ``offers`` with the 8B shape."""
    return Question(
        recipe=given,
        recipe_dir="/recipes",
        shape=more.pop("shape", SHAPE),
        stats=more.pop("stats", STATS),
        offers=offers,
        provider=provider,
        cloudtune_version="0.1",
        today=more.pop("today", TODAY),
        **more,
    )
