"""The verb ``estimate``: peak memory, time and price on every machine, and why the others will not do. Decides nothing.

A report can be asked further: ``Reckoning`` holds what its memory was reckoned from, so that it can be explained and drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from cloudtune.errors import NothingFits
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate
from cloudtune.planning.choose import Weighing, leanest_attempt
from cloudtune.planning.plan import Candidate, DataStats, Rejected
from cloudtune.planning.reckoner import device_of
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Frozen
from cloudtune.verbs import market
from cloudtune.verbs.plan import gather

if TYPE_CHECKING:
    from cloudtune.memory.timeline import Timeline
    from cloudtune.models.shape import ModelShape
    from cloudtune.planning.decide import Question
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session


class EstimateReport(Frozen):
    """``memory`` and ``layout`` are those of the first candidate, or of the leanest attempt when nothing fits."""

    model: str
    method: str
    parameters: int
    memory: Estimate
    layout: Layout
    device: str
    """The GPU (or cpu) that ``memory`` was reckoned for."""
    data: DataStats
    steps: int
    candidates: tuple[Candidate, ...] = Field(strict=False)
    rejected: tuple[Rejected, ...] = Field(strict=False)


@dataclass(frozen=True, slots=True)
class Reckoning:
    """A report, and the very job that its memory belongs to. ``recipe`` has kernels and loss decided."""

    report: EstimateReport
    question: Question
    recipe: Recipe
    shape: ModelShape
    layout: Layout
    device: Device

    def explanation(self) -> tuple[str, ...]:
        """The peak in sentences: where it is, what fills it, what would lower it."""
        from cloudtune.memory.explain import explain

        return explain(self.recipe, self.shape, self.layout, self.device)

    def timeline(self) -> Timeline:
        """Live memory over the run."""
        from cloudtune.memory.timeline import timeline

        return timeline(self.recipe, self.shape, self.layout, self.device)


def estimate(loaded: LoadedRecipe, *, provider: str | None = None, session: Session, gpu: str | None = None) -> EstimateReport:
    """Weigh every machine. Raises NothingFits only when not a single layout could be reckoned."""
    return reckoning(loaded, provider=provider, session=session, gpu=gpu).report


def reckoning(loaded: LoadedRecipe, *, provider: str | None = None, session: Session, gpu: str | None = None) -> Reckoning:
    """The same with what the memory was reckoned from. ``gpu``: only machines with this in their GPU's name."""
    question = with_gpu(gather(loaded, provider=provider, session=session), gpu)
    weighing = question.weigh()
    memory, layout, device = _headline(question, weighing)
    return Reckoning(
        _report(question, weighing, memory, layout, device.name), question, weighing.timing.recipe, question.shape, layout, device
    )


def with_gpu(question: Question, gpu: str | None) -> Question:
    """The question for machines with ``gpu`` in their GPU's name alone. Raises UsageError when there is none."""
    return replace(question, offers=market.with_gpu(question.offers, gpu))


def _report(question: Question, weighing: Weighing, memory: Estimate, layout: Layout, device: str) -> EstimateReport:
    return EstimateReport(
        model=question.recipe.model.base,
        method=question.recipe.method.type,
        parameters=question.shape.parameters,
        memory=memory,
        layout=layout,
        device=device,
        data=question.stats,
        steps=weighing.amount.steps,
        candidates=tuple(option.candidate() for option in weighing.options),
        rejected=weighing.rejected,
    )


def _headline(question: Question, weighing: Weighing) -> tuple[Estimate, Layout, Device]:
    if weighing.options:
        best = weighing.options[0]
        return weighing.memory(best), best.layout, device_of(best.offer)
    if (leanest := leanest_attempt(weighing, question.offers)) is not None:
        return leanest.estimate, leanest.layout, leanest.device
    raise NothingFits(
        "no machine could even be reckoned: " + "; ".join(sorted({item.reason for item in weighing.rejected}))[:500],
        hint="look at compute in the recipe, or name another provider",
    )
