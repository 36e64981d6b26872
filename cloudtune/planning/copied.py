"""Data that a launch first copies from one cloud into the other's bucket, and what its leaving costs. Pure; asks no bucket.

Only data is copied, so that one recipe runs on both clouds; a base model is not, for its size.
"""

from __future__ import annotations

from cloudtune.cost import transfer_usd
from cloudtune.recipe.spec import DataSource, Recipe
from cloudtune.units import usd

COPIED = {"gcp": "s3://"}
"""Provider → what the addresses of data begin with that its launcher copies into the job's own bucket."""
BYTES_PER_TOKEN = 3.6  # as sources/stats.py reckons text of unknown length


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
    size = sum(stated) * BYTES_PER_TOKEN
    return f"{said}: about {size / 1e9:.2g} GB by the stated tokens, for whose leaving Amazon bills up to {usd(transfer_usd(size))}"


def sources(recipe: Recipe) -> tuple[DataSource, ...]:
    """Every source of rows, for training and for evaluation."""
    held_out = recipe.data.eval
    return (*recipe.data.train, *(held_out if isinstance(held_out, tuple) else ()))
