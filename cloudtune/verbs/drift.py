"""What has changed since a saved plan was made. Reads prices and the ends of the recipe's files; light, for every launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.planning.drift import changes
from cloudtune.recipe.locations import is_local_file
from cloudtune.sources.files import locate
from cloudtune.sources.stats import fingerprint

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.recipe.spec import Recipe
    from cloudtune.session import Session


def cloudtune_version() -> str:
    """This code's own version: the same in a checkout and in an installed wheel, so that equal sources render equal bytes."""
    from cloudtune import __version__

    return __version__


def changed_since(plan: Plan, *, session: Session) -> tuple[str, ...]:
    """What has changed since a saved plan was made, one sentence each: prices, offers, data, cloudtune. Empty: nothing."""
    now = fingerprints(plan.recipe, Path(plan.recipe_dir))
    if plan.chosen.provider == "local":
        return changes(plan, (), now, cloudtune_version())
    from cloudtune.offers.catalog import offers_of

    return changes(plan, offers_of(plan.chosen.provider, session.settings.home), now, cloudtune_version())


def fingerprints(recipe: Recipe, base_dir: Path) -> dict[str, str]:
    """Size and digest of both ends of each local data file; files that cannot be read are left out."""
    evaluated = recipe.data.eval if isinstance(recipe.data.eval, tuple) else ()
    paths = [source.path for source in (*recipe.data.train, *evaluated) if is_local_file(source.path)]
    return {path: found for path in paths if (found := fingerprint(locate(path, base_dir))) is not None}
