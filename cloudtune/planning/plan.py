"""The plan: recipe + chosen offer + layout + estimate + time + cost + runners-up + why the rest were rejected.

A plan is a value: printed, saved with ``plan -o``, and launched later exactly as it is. Nothing here has effects.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cloudtune.memory.estimate import Estimate
from cloudtune.offers.disks import Basis
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import Frozen, Recipe

Purchase = Literal["on_demand", "spot", "flex_start", "reserved", "owned"]
NonNegative = Annotated[float, Field(ge=0)]


class DataStats(Frozen):
    """Size of the training data. ``measured`` says whether the rows were read or stated or assumed."""

    rows: int
    tokens: int
    """Tokens of one epoch after cutting at max_length."""
    mean_tokens: float
    longest_tokens: int
    basis: Literal["counted", "sampled", "stated", "assumed"]
    lengths: tuple[int, ...] = Field(default=(), strict=False)
    """Quantiles of the row lengths in tokens at 0, 5, 10 ... 100 %, cut at max_length; empty when no row was seen."""


class Chosen(Frozen):
    """The offer the job will run on."""

    provider: str
    region: str
    instance: str
    purchase: Purchase
    gpu: str
    gpu_bytes: int
    """Memory of one GPU in bytes (of the whole machine on the CPU)."""
    usd_per_hour: NonNegative
    price_date: str
    """ISO date of the price; empty when the machine costs nothing."""
    accelerator: str = ""
    """The provider's word for the GPU where a request must say it (Vertex AI), else empty."""
    disk_usd_per_hour: NonNegative = 0.0
    """The part of ``usd_per_hour`` that is the boot disk."""
    disk_basis: Basis = ""
    """``listed``: the disk's price has a source; ``assumed``: another's is taken, which may be half of it off (offers/disks.py)."""
    usd_per_hour_high: NonNegative | None = None
    """The most an hour may cost where the price is a range (managed spot: the on-demand price); None for a fixed price."""


class Advice(Frozen):
    """One change of the recipe and what it would bring, computed, not guessed. Numbers are None where they do not apply."""

    change: str
    """The change as a --set override or a flag, such as ``training.gradient_checkpointing=true``."""
    effect: str
    """One sentence: what then fits, where, and for how much."""
    usd: NonNegative | None = None
    hours: NonNegative | None = None
    peak_bytes: int | None = None
    instance: str = ""


class Candidate(Frozen):
    """One offer that would do."""

    provider: str
    region: str
    instance: str
    purchase: Purchase
    hours: NonNegative
    usd: NonNegative
    risk_usd: NonNegative
    """usd weighed by the risk of interruptions; the choice minimises it."""
    layout: Layout


class Rejected(Frozen):
    """One offer that will not do, with one plain sentence. Bytes are per GPU; None where memory is not the reason.

    ``usd`` and ``hours`` are those of its best way where budget or max_hours is the reason.
    """

    provider: str
    region: str
    instance: str
    purchase: Purchase
    reason: str
    needs_bytes: int | None = None
    has_bytes: int | None = None
    usd: NonNegative | None = None
    hours: NonNegative | None = None


class Plan(Frozen):
    """Everything decided. ``usd`` = ``hours`` x ``chosen.usd_per_hour`` x ``layout.nodes``."""

    version: Literal[1] = 1
    cloudtune_version: str
    recipe: Recipe
    """As written: what was ``auto`` stays ``auto`` here; ``resolved`` has the decisions."""
    recipe_dir: str
    """Absolute folder that the recipe's relative paths start from."""
    recipe_digest: str
    """sha256 of the recipe's canonical JSON."""
    resolved: Recipe
    """The recipe with every ``auto`` decided."""
    memory: Estimate
    layout: Layout
    chosen: Chosen
    data: DataStats
    steps: int
    """Optimizer steps of the whole run."""
    hours: NonNegative
    hours_low: NonNegative
    hours_high: NonNegative
    usd: NonNegative
    usd_low: NonNegative
    usd_high: NonNegative
    max_seconds: int | None
    """Server-side time limit that follows from budget and max_hours, in seconds."""
    candidates: tuple[Candidate, ...] = Field(strict=False)
    rejected: tuple[Rejected, ...] = Field(strict=False)
    decisions: tuple[str, ...] = Field(default=(), strict=False)
    """What the planner chose for each ``auto``, in words."""
    warnings: tuple[str, ...] = Field(default=(), strict=False)
    fallbacks: tuple[Candidate, ...] = Field(default=(), strict=False)
    """Machines of the same place that can run the same layout, in the order to try when the chosen one is sold out."""
    advice: tuple[Advice, ...] = Field(default=(), strict=False)
    """Changes that would halve the price."""
    training_seconds: NonNegative = 0.0
    """Expected seconds of steps and evaluations alone, by the time model before your own runs correct it."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of the local files that the recipe names, by their path in the recipe: size and digest of both ends."""
