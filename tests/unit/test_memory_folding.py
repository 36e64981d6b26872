"""Folding identical layers changes nothing: the tapes with and without it are the same, event by event."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cloudtune.memory.allocator import replay
from cloudtune.memory.folding import LEAST, Fold, Span
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
    for row in folded.rows:
        assert frees_only_its_own(folded.events[row.start : row.stop], row.count)
    for expandable in (True, False):
        assert replay(folded, expandable=expandable) == replay(whole, expandable=expandable)


def frees_only_its_own(events: list[int], count: int) -> bool:
    """Whether the pieces are alike but for the ids, and each frees only what it has made: what a row promises."""
    length = len(events) // count
    pieces = [events[start : start + length] for start in range(0, len(events), length)]
    made = sum(event > 0 for event in pieces[0])
    first = min((~event for event in pieces[0] if event < 0), default=0)
    alike = all([event if event > 0 else event + number * made for event in piece] == pieces[0] for number, piece in enumerate(pieces))
    seen = 0
    for event in pieces[0]:
        if event > 0:
            seen += 1
        elif ~event - first >= seen:
            return False
    return alike


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


@pytest.mark.parametrize("targets", [["v_proj"], ["o_proj"], ["up_proj"], ["gate_proj", "up_proj", "down_proj"], ["q_proj", "v_proj"]])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_first_layer_without_gradient_of_its_input_keeps_and_frees_other_things(kind: str, targets: list[str]) -> None:
    method = {"type": kind, "target_modules": targets}
    same(job_of(recipe(method, length=64), shape(num_hidden_layers=9), layout(checkpointing=False), L4))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_rows_between_other_layers(method: str, checkpointing: bool) -> None:
    """Plain layers before and after a row of mixtures of experts, and rows of them."""
    fields = {**FAMILIES["qwen3_moe"], "num_hidden_layers": 15, "mlp_only_layers": [0, 1, 2, 3, 8, 13, 14]}
    job = job_of(recipe(METHODS[method], length=64), shape("qwen3_moe", **fields), layout(checkpointing=checkpointing), L4)
    same(job)
    program = Program(job)
    program.play()
    assert len(program.folds) == 6, "three rows in each of two steps"


@pytest.mark.parametrize("copy_out", [True, False])
def test_layers_that_are_gathered(copy_out: bool) -> None:
    """FSDP 1 gathers the last layer once more in the backward pass: more layers are run around those that are folded."""
    job = job_of(recipe({"type": "lora"}, length=64), shape(num_hidden_layers=12), layout(gpus=4, sharding="fsdp"), L4)
    job = replace(job, behaviour=replace(job.behaviour, copy_out=copy_out))
    same(job)
    assert [Program(job, near).play() for near in (1, 2)]
    two = Program(job, near=2)
    two.play()
    assert two.is_regular()


@pytest.mark.parametrize("layers", [4, 5, 6, 9])
def test_no_gradient_comes_through_the_layers(layers: int) -> None:
    method = {"type": "lora", "target_modules": ["lm_head"], "modules_to_save": ["lm_head"]}
    same(job_of(recipe(method, length=64), shape(num_hidden_layers=layers), layout(checkpointing=False), L4))


def three_layers(change: str = "") -> tuple[Tape, Fold]:
    """b, c and d forward, d, c and b backward. Each keeps three tensors: the next layer's forward pass frees the first, its own
    backward pass the second and its successor's the third. Gradients are freed by the predecessor. ``change``: what one does otherwise.
    """
    tape, ids, spans = Tape(), {}, {}

    def piece(name: str, made: dict[str, int], freed: list[str]) -> None:
        start, first = len(tape.events), len(tape.names)
        for what, size in made.items():
            ids[what] = tape.alloc(size, what)
        tape.events.extend(~ids.pop(what) for what in freed)
        spans[name] = Span((start, len(tape.events)), (first, len(tape.names)))

    width = {"b": 512, "c": 512, "d": 512}
    width |= {"b": 1024} if change == "b makes more" else {}
    piece("b", {"b1": width["b"], "b2": 512, "b3": 512}, [])
    piece("c", {"c1": 512, "c2": 512, "c3": 512}, ["b2" if change == "c frees another one of b" else "b1"])
    piece("d", {"d1": 512, "d2": 512, "d3": 512}, ["c1", *(["c2"] if change == "d frees two of c" else [])])
    early = ["c2"] if change == "d frees another one of c" else ["c3"]
    piece("d'", {"dg": 1024 if change == "d's gradient is larger" else 256, "dh": 256}, ["d2", *early])
    own = [what for what in ("c2", "c3") if what in ids]
    own_b = [what for what in ("b1", "b2") if what in ids][:1] if change == "c frees another one of b" else []
    piece("c'", {"cg": 256, "ch": 256}, [*own, "b3", "dg", *own_b])
    piece("b'", {"bg": 256, "bh": 256}, ["ch" if change == "b frees another gradient" else "cg", *(["b2"] if "b2" in ids else [])])
    return tape, Fold(4, spans["b"], spans["c"], spans["d"], spans["d'"], spans["c'"])


CHANGES = [
    "b makes more",
    "d frees two of c",
    "c frees another one of b",
    "d frees another one of c",
    "d's gradient is larger",
    "b frees another gradient",
]


@pytest.mark.parametrize("change", CHANGES)
def test_layers_that_do_other_things_to_each_other_are_not_folded(change: str) -> None:
    for each, is_regular in (("", True), (change, False)):
        tape, fold = three_layers(each)
        assert fold.is_regular(tape) == is_regular


def test_a_layer_that_makes_what_stays_for_ever_is_not_repeated() -> None:
    tape, fold = three_layers()
    once = replace(fold, before=replace(fold.before, once=(0,)), forward=replace(fold.forward, once=(3,)))
    assert not once.is_regular(tape)


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
    assert program.is_regular()
