"""The small version of a plan that a rehearsal sends to a stand-in cloud: the same request, orders for a CPU, a shrunken model.

Request and machine stay those of the real plan. What the job is told (``job.json``) becomes one process on the CPU; a
model that is not built in is shrunk with the dry run's own preparation, which also samples the user's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.recipe.locations import is_builtin
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import DataSource
from cloudtune.rendering.contract import Limits, contract_of
from cloudtune.rendering.jobfile import bucket_inputs
from cloudtune.verbs.rehearsal import Rehearsal, proofs_of
from cloudtune.verbs.render import render

if TYPE_CHECKING:
    from cloudtune.engine.runner import Runner
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Staged, Stager
    from cloudtune.recipe.spec import Recipe
    from cloudtune.rendering.bundle import Bundle
    from cloudtune.session import Session

HELD_OUT = 0.1
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Small:
    """``plan`` names the machine of the real plan and the small job's inputs; ``job`` are the orders' files. ``base``: shrunken model."""

    plan: Plan
    job: Mapping[str, bytes]
    detail: str
    base: Path | None = None
    unproved: tuple[str, ...] = ()


def make_small(plan: Plan, *, session: Session, runner: Runner, image: str, folder: Path, say: Say) -> Small:
    """Shrink ``plan``. Raises Shortfall when data or model cannot be prepared, StagingError when a file cannot be read."""
    if is_builtin(plan.recipe.model.base) and not bucket_inputs(plan):  # rows of a bucket are replaced in the other way only
        small = _with_evaluation(_on_one_machine(plan))
        return Small(small, _orders(small), f"{plan.recipe.model.base} as it is, {plan.steps} steps on the CPU")
    limits = Limits(memory_bytes=None, cpus=None)
    rehearsal = Rehearsal(plan, session, runner, image, folder, contract_of("local"), limits, say)
    details = []
    for name, step in islice(proofs_of(rehearsal), 2):
        say(name)
        details.append(step())
    inputs = folder / "input" / "data"
    job = JobFile.model_validate_json((inputs / "job" / "job.json").read_bytes())
    small = _with_recipe(_on_one_machine(plan), job.recipe, inputs)
    return Small(small, _orders(small), details[-1], inputs / str(job.model_path), rehearsal.unproved())


def _on_one_machine(plan: Plan) -> Plan:
    return plan.model_copy(update={"layout": replace(plan.layout, nodes=1)})


def _with_evaluation(plan: Plan) -> Plan:
    """Without held-out rows nothing could be measured again when the result is loaded."""
    if plan.resolved.data.eval is not None:
        return plan
    data = plan.resolved.data.model_copy(update={"eval": HELD_OUT})
    resolved = plan.resolved.model_copy(update={"data": data})
    return plan.model_copy(update={"resolved": resolved})


def _with_recipe(plan: Plan, recipe: Recipe, inputs: Path) -> Plan:
    """The plan with the small job's recipe, whose paths become those of the prepared files on this machine."""

    def here(sources: tuple[DataSource, ...]) -> tuple[DataSource, ...]:
        return tuple(source.model_copy(update={"path": str(inputs / source.path)}) for source in sources)

    held = recipe.data.eval
    data = recipe.data.model_copy(update={"train": here(recipe.data.train), "eval": here(held) if isinstance(held, tuple) else held})
    model = recipe.model.model_copy(update={"base": str(inputs / recipe.model.base)})
    small = recipe.model_copy(update={"data": data, "model": model})
    original = plan.recipe
    kept = {"compute": original.compute, "budget": original.budget, "output": small.output}
    asked = small.model_copy(update=kept)
    return plan.model_copy(update={"recipe": asked, "resolved": asked})


def _orders(plan: Plan) -> Mapping[str, bytes]:
    """job.json (and a template) for one process on the CPU."""
    layout = replace(
        plan.layout,
        gpus=0,
        sharding="none",
        cpu_offload=False,
        gradient_accumulation_steps=max(1, plan.layout.batch_size // plan.layout.micro_batch_size),
    )
    return render(plan.model_copy(update={"layout": layout, "max_seconds": None})).job


class SmallStager:
    """The place's own stager, given the small job's orders; remembers what was staged."""

    def __init__(self, inner: Stager, small: Small) -> None:
        self._inner = inner
        self._small = small
        self.staged: Staged | None = None

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        self.staged = self._inner.stage(replace(bundle, job=self._small.job), plan, progress)
        return self.staged
