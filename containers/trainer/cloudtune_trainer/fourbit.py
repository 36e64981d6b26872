"""A trap of bitsandbytes on CPUs with AVX512-BF16, disarmed. Touches 4-bit layers only.

On such a processor a 4-bit layer in eval mode repacks its weight in place for a faster bf16 product. That product has no
backward pass: a training after an evaluation would go on with gradients that stop at the first frozen layer, silently
(torch prints one warning). So the trainer switches repacking off, and on again only around an evaluation, where it is
what everybody gets who loads the result: the manifest's losses are then those of a plain transformers and peft program.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SWITCH = "support_avx512bf16_for_cpu"
_ROWS = 32  # the repacked layout comes in blocks of so many rows; bitsandbytes fails on other shapes


def keep_trainable(model: Any) -> None:
    """Switch repacking off in every layer of ``model``."""
    for layer in model.modules():
        if hasattr(layer, _SWITCH):
            setattr(layer, _SWITCH, False)


@contextmanager
def as_served(model: Any) -> Iterator[None]:
    """Within: 4-bit layers compute as in a program that only infers. Afterwards: weights and states as before."""
    from bitsandbytes.functional import has_avx512bf16

    usable = has_avx512bf16() and not _reads_weights(model)
    layers = [layer for layer in _layers(model) if usable and _repacks(layer)]
    before = [(layer.weight.data, copy.copy(layer.weight.quant_state)) for layer in layers]
    for layer in layers:
        setattr(layer, _SWITCH, True)
    try:
        yield
    finally:
        for layer, (data, state) in zip(layers, before, strict=True):
            setattr(layer, _SWITCH, False)
            layer.weight.data = data
            layer.weight.quant_state = layer.quant_state = state


def _layers(model: Any) -> list[Any]:
    """4-bit layers on the CPU."""
    return [module for module in model.modules() if hasattr(module, _SWITCH) and module.weight.device.type == "cpu"]


def _repacks(layer: Any) -> bool:
    """Whether the layer's rows fill blocks. A weight without a state of its own is a shard, which is never repacked."""
    state = getattr(layer.weight, "quant_state", None)
    return state is not None and state.shape[0] % _ROWS == 0


def _reads_weights(model: Any) -> bool:
    """Whether adapters look at the base's weights themselves (DoRA): they would read repacked ones in the wrong order."""
    return any(hasattr(module, "use_dora") and any(module.use_dora.values()) for module in model.modules())
