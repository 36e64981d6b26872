"""Exact mode agrees with the templates where both exist, and refuses in words what it cannot trace."""

from __future__ import annotations

import pytest

from cloudtune.errors import UsageError
from cloudtune.memory.device import Device
from cloudtune.memory.exact import exact_estimate
from cloudtune.memory.reckon import estimate_memory
from cloudtune.units import GIB
from tests.unit.memory_builders import SMALL, layout, recipe, shape

pytestmark = pytest.mark.stack
CPU = Device.cpu(total_bytes=16 * GIB)


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora"}, {"type": "qlora"}], ids=["full", "lora", "nf4"])
def test_it_agrees_with_the_templates(method: dict) -> None:
    asked = recipe(method, length=256)
    traced = exact_estimate({"model_type": "llama", **SMALL}, asked, layout(), CPU)
    reckoned = estimate_memory(asked, shape(), layout(), CPU)
    assert traced.allocated_bytes == pytest.approx(reckoned.allocated_bytes, rel=0.01)
    assert sum(part.bytes for part in traced.parts) == traced.peak_bytes


def test_what_cannot_be_traced_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be traced"):
        exact_estimate({"model_type": "llama", **SMALL}, recipe({"type": "qlora", "quantization": "int8"}), layout(), CPU)
    with pytest.raises(UsageError, match="cannot be traced"):
        exact_estimate({"model_type": "no-such-model"}, recipe(), layout(), CPU)
