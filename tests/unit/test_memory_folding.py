"""Folding identical layers changes nothing: the tapes with and without it are the same, event by event."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cloudtune.memory.allocator import replay
from cloudtune.memory.folding import LEAST
from cloudtune.memory.program import Job, Program, tape_of
from cloudtune.memory.reckon import job_of
from cloudtune.memory.tape import Tape
from tests.unit.memory_builders import L4, layout, recipe, shape

METHODS = {
    "full": {"type": "full"},
    "lora": {"type": "lora", "r": 8, "dropout": 0.1},
    "dora": {"type": "lora", "r": 8, "use_dora": True},
    "nf4": {"type": "qlora", "r": 8},
    "int8": {"type": "qlora", "quantization": "int8"},
}
FAMILIES = {
    "llama": {},
    "gemma2": {"head_dim": 64},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "head_dim": 64,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}


NUMBER = re.compile(r"\d+")  # a repeated layer keeps the names of the one that was run


def canonical(tape: Tape) -> list[int]:
    """The events with neighbouring frees sorted: their order means nothing to the allocator, which merges all of them."""
    out: list[int] = []
    frees: list[int] = []
    for event in tape.events[: tape.end]:
        if event < 0:
            frees.append(event)
            continue
        out += sorted(frees)
        frees = []
        out.append(event)
    return out + sorted(frees)


def same(job: Job) -> None:
    folded, whole = tape_of(job), tape_of(replace(job, fold=False))
    assert canonical(folded) == canonical(whole)
    assert json.dumps(folded.marks) == json.dumps(whole.marks)
    assert folded.kinds == whole.kinds
    assert [NUMBER.sub("N", name) for name in folded.names] == [NUMBER.sub("N", name) for name in whole.names]
    for expandable in (True, False):
        assert replay(folded, expandable=expandable) == replay(whole, expandable=expandable)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, checkpointing: bool) -> None:
    same(job_of(recipe(METHODS[method]), shape(), layout(checkpointing=checkpointing), L4))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer(family: str) -> None:
    same(job_of(recipe({"type": "lora"}), shape(family, **FAMILIES[family]), layout(), L4))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_whose_last_layer_makes_the_libraries_take_a_workspace(method: str, checkpointing: bool) -> None:
    same(job_of(recipe(METHODS[method], length=64, task="masked_lm"), shape("bert"), layout(checkpointing=checkpointing), L4))


@pytest.mark.parametrize(("gpus", "sharding"), [(4, "fsdp"), (2, "ddp")])
@pytest.mark.parametrize("method", ["full", "nf4"])
def test_several_gpus(method: str, gpus: int, sharding: str) -> None:
    same(job_of(recipe(METHODS[method]), shape(), layout(gpus=gpus, sharding=sharding), L4))


def test_accumulation_and_chunked_loss() -> None:
    same(job_of(recipe({"type": "full"}, fused_loss=True), shape(), layout(accumulation=4), L4))


@pytest.mark.parametrize("layers", range(1, LEAST + 4))
def test_every_small_number_of_layers(layers: int) -> None:
    same(job_of(recipe(), shape(num_hidden_layers=layers), layout(), L4))


def test_folding_is_at_work() -> None:
    """Without it the generator would run every layer: a deep model costs hardly more than a flat one."""
    program = Program(job_of(recipe(), shape(num_hidden_layers=64), layout(), L4))
    tape = program.play()
    assert len(program.layers) == 3
    assert [row.count for row in tape.rows] == [61, 61], "the forward passes of both steps"


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_no_job_is_run_layer_by_layer_after_all(family: str, method: str, checkpointing: bool) -> None:
    """A row whose neighbours do not allocate alike would be: right, but slow. Workspaces, made once, are no such difference."""
    task = "masked_lm" if family == "bert" else "causal_lm"
    fields = FAMILIES.get(family, {})
    program = Program(job_of(recipe(METHODS[method], task=task), shape(family, **fields), layout(checkpointing=checkpointing), L4))
    program.play()
    assert program.folds
    assert all(fold.regular for fold in program.folds)
