"""Steps that are written down from the first one: the same tape, event for event, as running every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudtune.memory import stepping
from cloudtune.memory.folding import Span
from cloudtune.memory.program import Job, Program
from cloudtune.memory.reckon import job_of
from cloudtune.memory.tape import Storage, Tape
from tests.unit.memory_builders import L4, layout, recipe, shape

METHODS: list[dict[str, Any]] = [{"type": "full"}, {"type": "lora"}, {"type": "qlora"}, {"type": "qlora", "quantization": "int8"}]


class Spoken(Program):
    """The same program, which says whether its second step was written down or run."""

    def _step(self, optimizer: Any) -> None:
        self.steps_run = getattr(self, "steps_run", 0) + 1
        super()._step(optimizer)


def jobs() -> list[tuple[str, Job]]:
    found = []
    for method in METHODS:
        for accumulation in (1, 2):
            for workers in (1, 4):
                way = replace(layout(), gpus=workers, sharding="fsdp" if workers > 1 else "none", gradient_accumulation_steps=accumulation)
                found.append((f"{method}-{accumulation}-{workers}", job_of(recipe(method, length=64), shape(), way, L4)))
    return found


@pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])
def test_a_step_that_is_written_down_is_the_step_that_would_run(name: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Spoken(job)
    written = short.play()
    assert short.steps_run == 1, name
    monkeypatch.setattr(stepping, "ONCE", frozenset())  # the workspaces stay: nothing may be written down any more
    long = Spoken(job)
    run = long.play()
    assert long.steps_run == 2
    for part in ("kinds", "names", "marks", "commands", "end"):
        assert getattr(written, part) == getattr(run, part), part
    assert written.events[: written.end] == run.events[: run.end]


@pytest.mark.parametrize("change", [{"outputs_overlap": True, "outputs_held": True, "loss": "full"}, {"gradients_kept": True}])
def test_steps_that_differ_are_run(change: dict[str, Any]) -> None:
    job = job_of(recipe({"type": "lora"}, length=64), shape(), layout(), L4)
    program = Spoken(replace(job, behaviour=replace(job.behaviour, **change)))
    program.play()
    assert program.steps_run == 2


def test_a_step_with_a_command_in_it_is_refused() -> None:
    tape = Tape()
    inside = Storage(tape, 1024, "inside")
    del inside
    step = stepping.Step(Span((0, len(tape.events)), (0, len(tape.names))), (), ())
    tape.command("empty_cache")
    assert stepping.repeat(replace(tape, events=list(tape.events), commands=[]), step) == []
    assert stepping.repeat(tape, step) is None


def test_a_step_that_frees_what_it_has_not_made_is_refused() -> None:
    tape = Tape()
    held = [Storage(tape, 512, "before")]
    start = len(tape.events), len(tape.names)
    inside = Storage(tape, 1024, "inside")
    held.clear()
    del inside
    step = stepping.Step(Span((start[0], len(tape.events)), (start[1], len(tape.names))), (), ())
    before = list(tape.events)
    assert stepping.repeat(tape, step) is None
    assert tape.events == before
