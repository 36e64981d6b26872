"""What a dry run finds out about data, tokenizer and model inside the job: the values of ``examination.json``. Pure.

Written by ``cloudtune_rehearsal`` in the container, read by the launcher. Lines count from 1; ``channel`` is a data
file's path inside the job, which the launcher turns back into the user's own path.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import Frozen

EXAMINATION_NAME = "examination.json"
RELOADED_NAME = "reloaded.json"
ORDERS_NAME = "rehearsal.json"
FOLDER = "rehearsal"
"""Of the orders below the input data, and of the results below the output folder."""

Count = Annotated[int, Field(ge=0)]


class RehearsalOrders(Frozen):
    """What to rehearse. ``job`` is the real job; ``config`` the shrunk model's config.json."""

    job: JobFile
    config: dict[str, Any]
    own_tokenizer: bool
    """Whether the model's own tokenizer lies in the rehearsal folder; else the quickstart's stands in."""
    steps: Annotated[int, Field(ge=4)]
    sample_rows: Annotated[int, Field(ge=4)]
    most_rows: Annotated[int, Field(ge=1)]
    """Rows that are tokenised; the text of all rows is looked at."""
    most_tokens: Annotated[int, Field(ge=16)]
    """Longest sequence that the shrunk model trains on."""


class Stretch(Frozen):
    """A run of tokens as text; ``trained`` says whether they enter the loss."""

    text: str
    trained: bool


class Sample(Frozen):
    """One row as the model will see it."""

    channel: str
    line: int
    tokens: Count
    trained_tokens: Count
    stretches: tuple[Stretch, ...] = Field(strict=False)


class Defect(Frozen):
    """One kind of fault in the data: how often it occurs and where first. ``wrong``: the job would fail or learn nonsense."""

    kind: str
    what: str
    hint: str
    channel: str
    line: Count
    count: Annotated[int, Field(ge=1)]
    lines: tuple[int, ...] = Field(default=(), strict=False)
    """The first few lines in ``channel``."""
    severity: Literal["wrong", "doubtful"]


class Dropped(Frozen):
    """Rows that give no training sequence, by reason."""

    reason: str
    count: Annotated[int, Field(ge=1)]
    channel: str
    line: Count


class Bin(Frozen):
    """Rows of ``low`` to ``high`` tokens."""

    low: Count
    high: Count
    rows: Count


class Examination(Frozen):
    """Everything found before training. Token numbers count the rows that were tokenised."""

    rows: Count
    tokenized_rows: Count
    kept_rows: Count
    cut_rows: Count
    tokens: Count
    trained_tokens: Count
    longest_tokens: Count
    packed_sequences: Count | None
    """How many packed sequences the tokenised rows make; None without packing."""
    lengths: tuple[Bin, ...] = Field(strict=False)
    dropped: tuple[Dropped, ...] = Field(strict=False)
    defects: tuple[Defect, ...] = Field(strict=False)
    samples: tuple[Sample, ...] = Field(strict=False)
    tokenizer: Literal["own", "stand-in"]
    model_class: str
    """Class of the shrunk model; empty when it could not be built."""
    parameters: Count
    """Of the shrunk model."""
    out_of_reach: tuple[str, ...] = Field(default=(), strict=False)
    """Data sources whose rows are made up here: hub data sets, buckets, parquet files."""

    @property
    def wrong(self) -> bool:
        return any(defect.severity == "wrong" for defect in self.defects)


class Reloaded(Frozen):
    """The saved result loaded again in a new process: its evaluation loss beside the manifest's."""

    kind: Literal["adapter", "full", "merged"]
    eval_loss: float
    expected: float
    tensors: Count
