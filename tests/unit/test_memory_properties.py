"""What must hold for any job: monotone in its sizes, sharding never hurts, parts sum to the peak to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtune.memory.bounds import floor_bytes
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.memory.reckon import estimate_memory, job_of, reckon
from cloudtune.units import GIB, MIB
from tests.unit.memory_builders import L4, layout, recipe, shape

# The allocator maps pages of 2 and 20 MiB; how many free ones lie between the live tensors is not monotone to the page.
PAGES = 2 * 22 * MIB
METHODS = st.sampled_from(
    [{"type": "full"}, {"type": "lora", "r": 8}, {"type": "qlora", "r": 8}, {"type": "qlora", "quantization": "int8"}],
)
CPU = Device.cpu(total_bytes=16 * GIB)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "method": draw(METHODS),
        "length": draw(st.integers(16, 700)),
        "micro": draw(st.integers(1, 6)),
        "layers": draw(st.integers(1, 12)),
        "checkpointing": draw(st.booleans()),
        "fused_loss": draw(st.booleans()),
        "gpus": 1,
    }


def estimate(job: dict[str, Any], *, device: Device = L4, **changes: Any) -> Estimate:
    job = {**job, **changes}
    plan = layout(
        micro=job["micro"],
        checkpointing=job["checkpointing"],
        gpus=job["gpus"] if device.kind == "cuda" else 0,
        sharding="fsdp" if job["gpus"] > 1 else "none",
    )
    return estimate_memory(
        recipe(job["method"], length=job["length"], fused_loss=job["fused_loss"]), shape(num_hidden_layers=job["layers"]), plan, device
    )


def grows(small: Estimate, large: Estimate) -> None:
    assert small.allocated_bytes <= large.allocated_bytes
    assert small.peak_bytes <= large.peak_bytes + PAGES


@settings(max_examples=12, deadline=None)
@given(jobs(), st.one_of(st.integers(1, 4), st.integers(5, 600)))
def test_longer_sequences_need_more(job: dict[str, Any], more: int) -> None:
    grows(estimate(job), estimate(job, length=job["length"] + more))


@settings(max_examples=16, deadline=None)
@given(jobs(), st.sampled_from(["micro", "layers"]), st.integers(1, 7))
def test_more_rows_and_layers_need_more(job: dict[str, Any], what: str, more: int) -> None:
    grows(estimate(job), estimate(job, **{what: job[what] + more}))


@settings(max_examples=12, deadline=None)
@given(jobs(), st.one_of(st.integers(1, 16), st.integers(17, 64)), st.one_of(st.integers(1, 6), st.integers(7, 64)))
def test_a_higher_rank_needs_more(job: dict[str, Any], rank: int, more: int) -> None:
    grows(estimate(job, method={"type": "lora", "r": rank}), estimate(job, method={"type": "lora", "r": rank + more}))


@settings(max_examples=10, deadline=None)
@given(jobs(), st.sampled_from([2, 3, 4, 8]), st.integers(1, 8))
def test_more_gpus_never_need_more(job: dict[str, Any], gpus: int, more: int) -> None:
    grows(estimate(job, gpus=gpus + more), estimate(job, gpus=gpus))


@settings(max_examples=20, deadline=None)
@given(jobs(), st.sampled_from([L4, CPU, Device.cuda("T4", total_bytes=15 * GIB), Device.cuda("H100", total_bytes=80 * GIB)]))
def test_parts_sum_to_the_peak_exactly(job: dict[str, Any], device: Device) -> None:
    found = estimate(job, device=device)
    assert sum(part.bytes for part in found.parts) == found.peak_bytes == found.reserved_bytes + found.context_bytes
    assert found.allocated_bytes <= found.reserved_bytes
    assert found.low_bytes <= found.peak_bytes <= found.high_bytes


@settings(max_examples=20, deadline=None)
@given(jobs())
def test_the_floor_is_below_the_peak(job: dict[str, Any]) -> None:
    made = recipe(job["method"], length=job["length"], fused_loss=job["fused_loss"])
    one = job_of(made, shape(num_hidden_layers=job["layers"]), layout(micro=job["micro"], checkpointing=job["checkpointing"]), L4)
    assert 0 < floor_bytes(one) <= estimate(job).allocated_bytes


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora"}, {"type": "qlora"}])
def test_checkpointing_and_chunked_loss_save(method: dict[str, Any]) -> None:
    job = {"method": method, "length": 512, "micro": 4, "layers": 8, "checkpointing": False, "fused_loss": False, "gpus": 1}
    assert estimate(job, checkpointing=True).peak_bytes < estimate(job).peak_bytes
    assert estimate(job, checkpointing=True, fused_loss=True).allocated_bytes <= estimate(job, checkpointing=True).allocated_bytes


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora", "r": 64}])
def test_eight_shards_rest_in_an_eighth(method: dict[str, Any]) -> None:
    """Weights, adapters and states are all dealt out; a floor that kept one of them whole would refuse machines that hold the job."""
    whole, dealt = (
        floor_bytes(job_of(recipe(method), shape(), way, L4)) for way in (layout(), layout(gpus=8, sharding="fsdp", accumulation=1))
    )
    assert dealt == pytest.approx(whole / 8, rel=0.01)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit", "sgd"])
def test_the_floor_of_large_adapters_is_most_of_the_peak_and_never_above_it(optimizer: str) -> None:
    """Of 16 tokens next to nothing is kept: what is left are weights, adapters and states, each counted once."""
    job = job_of(recipe({"type": "lora", "r": 256}, length=16, optimizer=optimizer), shape(), layout(micro=1), L4)
    live = reckon(job).result.peak_allocated
    assert 0.55 * live < floor_bytes(job) <= live
