"""cloudtune: one recipe for fine-tuning a language model, on AWS, Google Cloud or this machine.

The names below are the SDK. Each is imported when it is first used, so ``import cloudtune`` costs nothing
and loads no SDK; the trainer inside the container imports this file too and finds only what it carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cloudtune.errors import CloudtuneError as CloudtuneError
    from cloudtune.job import JobState as JobState
    from cloudtune.job import JobView as JobView
    from cloudtune.planning.plan import Plan as Plan
    from cloudtune.recipe.load import LoadedRecipe as LoadedRecipe
    from cloudtune.recipe.load import load_file as load_file
    from cloudtune.recipe.load import load_text as load_text
    from cloudtune.recipe.spec import Recipe as Recipe
    from cloudtune.session import Session as Session
    from cloudtune.settings import Settings as Settings
    from cloudtune.verbs.collect import collect as collect
    from cloudtune.verbs.dryrun import dry_run as dry_run
    from cloudtune.verbs.estimate import estimate as estimate
    from cloudtune.verbs.jobs import ps as ps
    from cloudtune.verbs.jobs import status as status
    from cloudtune.verbs.launch import launch as launch
    from cloudtune.verbs.logs import logs as logs
    from cloudtune.verbs.plan import make_plan as make_plan
    from cloudtune.verbs.reconcile import reconcile as reconcile
    from cloudtune.verbs.render import render as render
    from cloudtune.verbs.render import write_bundle as write_bundle
    from cloudtune.verbs.stop import stop as stop
    from cloudtune.verbs.track import atrack as atrack
    from cloudtune.verbs.track import track as track
    from cloudtune.verbs.validate import validate as validate

_HOMES = {
    "CloudtuneError": "cloudtune.errors",
    "JobState": "cloudtune.job",
    "JobView": "cloudtune.job",
    "Plan": "cloudtune.planning.plan",
    "LoadedRecipe": "cloudtune.recipe.load",
    "load_file": "cloudtune.recipe.load",
    "load_text": "cloudtune.recipe.load",
    "Recipe": "cloudtune.recipe.spec",
    "Session": "cloudtune.session",
    "Settings": "cloudtune.settings",
    "collect": "cloudtune.verbs.collect",
    "dry_run": "cloudtune.verbs.dryrun",
    "estimate": "cloudtune.verbs.estimate",
    "ps": "cloudtune.verbs.jobs",
    "status": "cloudtune.verbs.jobs",
    "launch": "cloudtune.verbs.launch",
    "logs": "cloudtune.verbs.logs",
    "make_plan": "cloudtune.verbs.plan",
    "reconcile": "cloudtune.verbs.reconcile",
    "render": "cloudtune.verbs.render",
    "write_bundle": "cloudtune.verbs.render",
    "stop": "cloudtune.verbs.stop",
    "atrack": "cloudtune.verbs.track",
    "track": "cloudtune.verbs.track",
    "validate": "cloudtune.verbs.validate",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cloudtune' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
