"""The time model: right directions, the published rows within the promised error, start-up and calibration."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtune.models.registry import find_shape
from cloudtune.planning import duration
from cloudtune.planning.calibrate import Calibration, Measured, calibrate
from cloudtune.planning.duration import Machine, ModelNumbers, Task
from cloudtune.planning.plan import DataStats
from cloudtune.planning.speeds import gpu_speed, wires
from cloudtune.planning.work import sequence_tokens
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Recipe

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelNumbers(32, 4096, 6_500_000_000, 500_000_000, 131_072, 6_500_000_000, 6_500_000_000, 7_500_000_000)
LORA = Task("lora", 1024, 40_000_000)


def micro(tokens=1024, task=LORA, checkpointing=False, gpu="A100 80GB"):
    return duration.micro_step_seconds(MODEL, task, tokens, checkpointing=checkpointing, gpu=gpu_speed(gpu))


def layout(**given) -> Layout:
    return Layout(**{"micro_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": False, "gpus": 1, **given})


@given(st.integers(1, 65_536), st.integers(1, 65_536))
def test_more_tokens_never_take_less_time(first, second):
    few, many = sorted((first, second))
    assert micro(few) <= micro(many) * (1 + 1e-12)


def test_every_extra_duty_costs_time():
    assert micro(checkpointing=True) > micro()
    assert micro(task=Task("qlora", 1024, 40_000_000)) > micro()
    assert micro(task=Task("full", 1024, 7_500_000_000), tokens=8192) > micro(tokens=8192)
    assert micro(task=Task("lora", 8192, 40_000_000)) > micro()


def test_a_faster_gpu_is_faster_and_an_unknown_one_is_taken_as_slow():
    assert micro(gpu="H100-SXM 80GB") < micro(gpu="A100-SXM 80GB") < micro(gpu="L4") < micro(gpu="T4")
    assert micro(gpu="Some New Card") == micro(gpu="T4")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("NVIDIA A100 80GB", "A100 80GB"),
        ("A100-SXM 40GB", "A100"),
        ("L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("A10G", "A10G"),
        ("RTX PRO 6000 Blackwell Server", "RTX PRO 6000"),
        ("GB200 (Grace Blackwell)", "GB200"),
    ],
)
def test_names_of_the_offers_find_their_row(name, table):
    assert gpu_speed(name).name == table


def test_wires_are_read_from_the_offers_words():
    assert wires("NVSwitch 600 GB/s", 400).inside == 300e9
    assert wires("NVLink4 900GB/s + GPUDirect-RDMA 3200Gbps", 3200).between == 400e9
    assert wires("PCIe Gen4", None).inside == 16e9
    assert wires("none (1 device)", None).inside < 16e9


def test_workers_share_the_steps_and_shards_pay_for_their_gathers():
    machine = Machine(gpu_speed("A10G"), wires("PCIe Gen4", 25))
    alone = duration.step_seconds(MODEL, LORA, layout(gradient_accumulation_steps=8), 1024, machine)
    spread = duration.step_seconds(MODEL, LORA, layout(gradient_accumulation_steps=2, gpus=4, sharding="ddp"), 1024, machine)
    shards = duration.step_seconds(MODEL, LORA, layout(gradient_accumulation_steps=2, gpus=4, sharding="fsdp"), 1024, machine)
    offload = duration.step_seconds(
        MODEL, LORA, layout(gradient_accumulation_steps=2, gpus=4, sharding="fsdp", cpu_offload=True), 1024, machine
    )
    assert alone / 4 <= spread < alone
    assert spread < shards < offload


def test_experts_count_by_the_number_that_see_a_token():
    shape = find_shape("Qwen/Qwen3-30B-A3B", base_dir=ROOT)
    numbers = duration.model_numbers(shape)
    assert 2.0e9 < numbers.active < 4.0e9
    assert numbers.stored > 25e9


def test_published_rows_are_predicted_as_the_accuracy_page_says():
    run = subprocess.run(
        [sys.executable, "benchmarks/planning/throughput.py", "--json"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(run.stdout)
    assert sum(1 for row in found["rows"] if not row["excluded"]) == 70
    assert all(row["excluded"] or row["predicted"] for row in found["rows"])
    assert found["summary"]["held out"]["median"] <= 1.3
    assert found["summary"]["all"]["p90"] <= duration.SPREAD_MEASURED + 0.01
    assert 0.25 <= found["summary"]["held out"]["n"] / found["summary"]["all"]["n"] <= 0.4
    page = (ROOT / "docs" / "accuracy.md").read_text()
    assert f"{found['summary']['all']['median']} x" in page
    assert found["summary"]["all"]["worst_id"] in page


def test_the_start_up_covers_download_and_quantising():
    small = duration.startup_seconds("aws", 1e9, quantised=False, builtin=False)
    large = duration.startup_seconds("aws", 140e9, quantised=True, builtin=False)
    assert small.low < small.expected < small.high
    assert large.expected > small.expected + 300
    assert duration.startup_seconds("local", 1e9, quantised=False, builtin=False).expected < small.expected


def test_own_runs_correct_the_speed_and_narrow_the_range():
    slow = [Measured("NVIDIA L4", "lora", 500, 1000)] * 6
    learned = calibrate(slow)
    factor, spread = learned.of(gpu_speed("L4"), "lora")
    assert 1.5 < factor < 2
    assert spread < duration.spread(gpu_speed("L4"))
    assert learned.of(gpu_speed("L4"), "full") == (1.0, duration.spread(gpu_speed("L4")))
    assert calibrate([Measured("L4", "lora", 0, 1000)]) == Calibration()
    assert calibrate(slow[:1]).factor("L4", "lora") == pytest.approx(math.exp(math.log(2) / 3))


@given(st.lists(st.integers(8, 2048), min_size=21, max_size=21), st.integers(1, 32), st.integers(1, 32))
def test_padding_grows_with_the_micro_batch_and_never_passes_the_limit(lengths, first, second):
    few, many = sorted((first, second))
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "name": "t",
            "model": {"base": "x/y"},
            "method": {"type": "lora"},
            "data": {"train": [{"path": "a.jsonl"}], "max_length": 2048},
        }
    )
    stats = DataStats(rows=10, tokens=10, mean_tokens=1, longest_tokens=1, basis="sampled", lengths=tuple(sorted(lengths)))
    assert 1 <= sequence_tokens(recipe, stats, few) <= sequence_tokens(recipe, stats, many) <= 2048
