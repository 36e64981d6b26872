"""What a training method is, told by its word. Pure, and loads no pydantic: the recipe's classes and sketches of them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod

    Method = FullMethod | LoraMethod | QloraMethod


def is_full(method: Method) -> TypeIs[FullMethod]:
    """Whether every weight is trained."""
    return method.type == "full"


def is_qlora(method: Method) -> TypeIs[QloraMethod]:
    """Whether adapters are trained on a quantised base."""
    return method.type == "qlora"
