"""The recipe of a bare model: every value that memory depends on at its default, without pydantic. Pure.

Loading pydantic and building the recipe's schema takes longer than reckoning an 8B model. Who asks ``cloudtune estimate MODEL``
has written no recipe that could be wrong, so nothing has to be checked. ``tests/unit/test_sketch.py`` keeps every value
equal to what the recipe itself says.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudtune.recipe.method import Method
    from cloudtune.recipe.spec import Recipe


class Values(SimpleNamespace):
    """Named values that are changed by copying, as those of a recipe are."""

    def model_copy(self, *, update: Mapping[str, Any]) -> Values:
        """The same values but for ``update``."""
        return Values(**{**vars(self), **update})


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSketch:
    """A method with what the recipe's classes have; full training ignores all but ``type``."""

    type: Literal["full", "lora", "qlora"]
    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    target_parameters: tuple[str, ...] = ()
    init: str = "default"
    trainable_tokens: tuple[int, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    use_dora: bool = False
    use_rslora: bool = False
    quantization: Literal["nf4", "fp4", "int8"] = "nf4"
    double_quant: bool = True


def method(word: Literal["full", "lora", "qlora"], **changes: Any) -> Method:
    """A method at its defaults but for ``changes``."""
    return cast("Method", MethodSketch(type=word, **changes))


def sketch(base: str) -> Recipe:
    """What ``model.base: BASE``, QLoRA, ``max_length: 2048`` and ``batch_size: 1`` make."""
    values = Values(
        model=Values(base=base, revision="main", config=None, dtype="bfloat16", attention="auto", trust_remote_code=False),
        task="causal_lm",
        method=method("qlora"),
        data=Values(max_length=2048, packing=False),
        training=Values(
            batch_size=1, micro_batch_size="auto", optimizer="adamw_torch_fused", gradient_checkpointing="auto", fused_loss="auto"
        ),
        compute=Values(provider="auto", regions=("us-east-1", "us-central1")),
    )
    return cast("Recipe", values)
