"""``cloudtune validate``: is this recipe good, and are its files there?"""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtune.cli.options import Json, RecipePath, Sets


def validate(
    recipe: RecipePath,
    files: Annotated[bool, typer.Option("--files/--no-files", help="Look whether local files exist and their rows are usable.")] = True,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Raise RecipeError with every fault, or say what the recipe is."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.show.tables import method_words
    from cloudtune.verbs.validate import validate as check

    loaded = check(recipe, overrides=sets or (), files=files)
    if as_json:
        json_result({"valid": True, "path": recipe, "recipe": loaded.recipe})
        return
    checked = "" if files else " (its files were not looked at)"
    result([f"{recipe} is valid: {loaded.recipe.name}, {method_words(loaded.recipe)}{checked}"])
