"""How much there is to do: optimizer steps, and the tokens of a micro batch with its padding. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudtune.planning.plan import DataStats
    from cloudtune.recipe.spec import Recipe, TrainingSpec

CHARACTERS_PER_TOKEN = 3.6  # where nothing counts them; sources/stats.py says of what
PADDING_WASTE = 1.15  # of rows padded to the longest of their micro batch, where the lengths are unknown: a class value
PACKED_FILL = 0.95  # of a packed sequence that is filled: best-fit packing of rows a few times shorter than it


@dataclass(frozen=True, slots=True)
class Amount:
    """Size of the work. ``evaluations``: passes over ``eval_rows``."""

    steps: int
    train_rows: int
    eval_rows: int
    evaluations: int


def amount_of_work(recipe: Recipe, stats: DataStats) -> Amount:
    """Steps of the whole run from rows, packing, epochs or max_steps."""
    fraction = recipe.data.eval if isinstance(recipe.data.eval, float) else 0.0
    eval_rows = max(1, round(stats.rows * fraction)) if fraction else _stated_eval_rows(recipe)
    train_rows = max(1, stats.rows - (eval_rows if fraction else 0))
    sequences = train_rows
    if recipe.data.packing:
        sequences = max(1, math.ceil(train_rows * stats.mean_tokens / (recipe.data.max_length * PACKED_FILL)))
    steps = recipe.training.max_steps or math.ceil(epochs(recipe.training) * sequences / recipe.training.batch_size)
    steps = max(1, steps)
    evaluations = 0
    if recipe.data.eval is not None:
        every = recipe.training.eval_steps
        evaluations = 1 + (5 if every == "auto" else steps // every)
    return Amount(steps, train_rows, eval_rows, evaluations)


def _stated_eval_rows(recipe: Recipe) -> int:
    if not isinstance(recipe.data.eval, tuple):
        return 0
    return sum(source.rows or 1000 for source in recipe.data.eval)


def epochs(training: TrainingSpec) -> float:
    """Passes over the data: 3 when the recipe says neither epochs nor max_steps."""
    return training.epochs if training.epochs is not None else 3.0


def sequence_tokens(recipe: Recipe, stats: DataStats, micro_batch: int) -> int:
    """Expected length that a row of a micro batch is padded to, in tokens; max_length when packed.

    With known lengths it is the expected longest of ``micro_batch`` draws from their quantiles.
    """
    limit = recipe.data.max_length
    if recipe.data.packing:
        return limit
    if not stats.lengths:
        waste = 1.0 if micro_batch == 1 else PADDING_WASTE
        return max(1, min(limit, round(stats.mean_tokens * waste)))
    pieces = len(stats.lengths) - 1
    chance = [((index + 1) / pieces) ** micro_batch - (index / pieces) ** micro_batch for index in range(pieces)]
    middle = [(low + high) / 2 for low, high in zip(stats.lengths, stats.lengths[1:], strict=False)]
    return max(1, min(limit, round(sum(share * length for share, length in zip(chance, middle, strict=True)))))
