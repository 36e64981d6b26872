"""What of a recipe is in a bucket, and how a job comes by it: from where it is, or copied first, which costs. Pure; asks no bucket.

A place brings what is in its own cloud's buckets. Of the other cloud's only data is copied, so that one recipe runs on both
clouds; a base model is not, for its size.
"""

from __future__ import annotations

from cloudtune.cost import transfer_usd
from cloudtune.planning.work import CHARACTERS_PER_TOKEN
from cloudtune.recipe.spec import DataSource, Recipe
from cloudtune.units import usd

OWN = {"aws": "s3://", "gcp": "gs://"}
"""Provider → what the addresses begin with that it brings into its jobs by itself."""
COPIED = {"gcp": "s3://"}
"""Provider → what the addresses of data begin with that its launcher copies into the job's own bucket."""


def is_brought(path: str, provider: str) -> bool:
    """Whether ``provider`` itself brings what is at ``path`` into its jobs."""
    return provider in OWN and path.startswith(OWN[provider])


def is_copied(path: str, provider: str) -> bool:
    """Whether a launch at ``provider`` copies the data at ``path``."""
    return provider in COPIED and path.startswith(COPIED[provider])


def copied(recipe: Recipe, provider: str) -> str | None:
    """What a launch at ``provider`` first copies, in one sentence: how much it is and what the other cloud bills for its leaving."""
    found = [source for source in sources(recipe) if is_copied(source.path, provider)]
    if not found:
        return None
    said = f"launching copies {', '.join(source.path for source in found)} through this machine into the job's bucket"
    stated = [source.tokens for source in found if source.tokens is not None]
    if len(stated) < len(found):
        return f"{said}: the size is not known here, and Amazon bills up to {usd(transfer_usd(10**9))} for each GB that leaves it"
    size = sum(stated) * CHARACTERS_PER_TOKEN
    return f"{said}: about {size / 1e9:.2g} GB by the stated tokens, for whose leaving Amazon bills up to {usd(transfer_usd(size))}"


def sources(recipe: Recipe) -> tuple[DataSource, ...]:
    """Every source of rows, for training and for evaluation."""
    held_out = recipe.data.eval
    return (*recipe.data.train, *(held_out if isinstance(held_out, tuple) else ()))
