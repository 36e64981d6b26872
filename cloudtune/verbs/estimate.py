"""The verb ``estimate``: peak memory, time and price on every machine, and why the others will not do. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cloudtune.errors import NothingFits
from cloudtune.memory.estimate import Estimate
from cloudtune.planning.choose import Weighing, leanest_attempt
from cloudtune.planning.plan import Candidate, DataStats, Rejected
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Frozen
from cloudtune.verbs.plan import gather

if TYPE_CHECKING:
    from cloudtune.planning.decide import Question
    from cloudtune.recipe.load import LoadedRecipe
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


def estimate(loaded: LoadedRecipe, *, provider: str | None = None, session: Session) -> EstimateReport:
    """Weigh every machine. Raises NothingFits only when not a single layout could be reckoned."""
    question = gather(loaded, provider=provider, session=session)
    return _report(question, question.weigh())


def _report(question: Question, weighing: Weighing) -> EstimateReport:
    memory, layout, device = _headline(question, weighing)
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


def _headline(question: Question, weighing: Weighing) -> tuple[Estimate, Layout, str]:
    if weighing.options:
        best = weighing.options[0]
        return weighing.memory(best), best.layout, best.offer.gpu.name if best.offer.gpu_count else "cpu"
    if (leanest := leanest_attempt(weighing, question.offers)) is not None:
        return leanest.estimate, leanest.layout, leanest.device.name
    raise NothingFits(
        "no machine could even be reckoned: " + "; ".join(sorted({item.reason for item in weighing.rejected}))[:500],
        hint="look at compute in the recipe, or name another provider",
    )
