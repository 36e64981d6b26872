"""Whether the modules that a recipe adapts are there in its model: a typing error is found before a machine is paid. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloudtune.errors import Fault, RecipeError
from cloudtune.planning.trained import is_target
from cloudtune.recipe.paths import show_value
from cloudtune.recipe.spec import FullMethod

if TYPE_CHECKING:
    from cloudtune.models.shape import ModelShape
    from cloudtune.recipe.load import LoadedRecipe


def check_targets(loaded: LoadedRecipe, shape: ModelShape) -> None:
    """Raises RecipeError for every name in ``method.target_modules`` that no module of the model ends with.

    peft itself refuses only when none of the names is found; a misspelt one among right ones would go unnoticed.
    """
    faults = tuple(_unknown(loaded, shape))
    if faults:
        raise RecipeError(faults)


def _unknown(loaded: LoadedRecipe, shape: ModelShape) -> Iterator[Fault]:
    method = loaded.recipe.method
    if isinstance(method, FullMethod):
        return
    modules = {name.rpartition(".")[0] for name, _ in shape.modules()}
    linear = {tensor.module for block in shape.blocks for tensor in block.tensors if tensor.kind == "linear"}
    known = sorted({module.rpartition(".")[2] for module in linear})
    names = () if isinstance(method.target_modules, str) else method.target_modules
    missing = [name for name in names if not any(is_target(module, (name,)) for module in modules)]
    for name in missing:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"its linear modules are {', '.join(known)}"
        yield loaded.fault(f"method.target_modules[{names.index(name)}]", f"the model has no module called {show_value(name)}", "", hint)
    if not missing and not method.target_parameters and not any(is_target(module, method.target_modules) for module in linear):
        hint = f"its linear modules are {', '.join(known)}"
        yield loaded.fault("method.target_modules", "none of the model's layers has a linear module of that name", "", hint)
