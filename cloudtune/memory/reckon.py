"""The reckoning: recipe + shape + layout + device -> Estimate. Pure, integers, no torch.

``estimate_memory`` is what planner and verbs call; its signature is stable.
"""

from __future__ import annotations

import math

from cloudtune.memory.closed import closed_form
from cloudtune.memory.device import Device
from cloudtune.memory.estimate import Estimate, MemoryPart
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.resolved import Layout
from cloudtune.recipe.spec import Recipe

CLOSED_FORM_ERROR = 0.25


def estimate_memory(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> Estimate:
    """Peak memory per GPU (of the process on the CPU) in bytes, itemised at the peak moment."""
    shares = closed_form(recipe, shape, layout, device)
    allocated = shares.total
    reserved = allocated + allocated // 20
    parts = (
        *shares.parts,
        MemoryPart(name="allocator slack", bytes=reserved - allocated),
        MemoryPart(name="context", bytes=device.context_bytes),
    )
    peak = reserved + device.context_bytes
    return Estimate(
        peak_bytes=peak,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        context_bytes=device.context_bytes,
        error_bar=CLOSED_FORM_ERROR,
        low_bytes=math.floor(peak * (1 - CLOSED_FORM_ERROR)),
        high_bytes=math.ceil(peak * (1 + CLOSED_FORM_ERROR)),
        parts=parts,
        peak_phase="backward",
        evidence="closed form, not yet compared with measurements",
    )
