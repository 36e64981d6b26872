"""Where a command gets its plan from: a recipe that is planned now, or a plan that was saved. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session


def plan_recipe(path: Path, *, provider: str | None, sets: Sequence[str], session: Session) -> Plan:
    """The plan for a recipe file, files checked."""
    from cloudtune.verbs.plan import make_plan
    from cloudtune.verbs.validate import validate

    return make_plan(validate(path, overrides=sets), provider=provider, session=session)


def recipe_or_plan(path: Path, *, provider: str | None, sets: Sequence[str], session: Session) -> Plan:
    """A saved plan exactly as it is, saying what has changed since, or a recipe planned now.

    Raises UsageError for options that would change a saved plan.
    """
    if path.suffix != ".json":
        return plan_recipe(path, provider=provider, sets=sets, session=session)
    if provider is not None or sets:
        raise UsageError("a saved plan is launched as it is; --provider and --set need the recipe", where=str(path))
    plan = read_plan(path)
    _say_changes(plan, session)
    return plan


def _say_changes(plan: Plan, session: Session) -> None:
    from cloudtune.cli.output import chatter
    from cloudtune.verbs.drift import changed_since

    for sentence in changed_since(plan, session=session):
        chatter(f"! {sentence}")


def read_plan(path: Path) -> Plan:
    """A plan saved by ``plan -o``. Raises UsageError when the file is something else or from another version."""
    from pydantic import ValidationError

    from cloudtune.planning.plan import Plan

    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the plan cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"this is no plan of this version of cloudtune: {key}: {first['msg']}",
            where=str(path),
            hint="make a new one with: cloudtune plan RECIPE -o plan.json",
        ) from error
