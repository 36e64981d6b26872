"""How far an estimate can be trusted: the error bar by what it rests on. Values and one function; docs/memory.md has the table.

A bar is a fraction of the peak, never below ``LEAST_BYTES`` (kernels, modules and libraries that vary by driver). It is the
margin that the verdict keeps free. Bars shrink when measurements of the class come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.memory.device import CONTEXT_MIB, Device
from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.method import is_full, is_qlora
from cloudtune.units import MIB

if TYPE_CHECKING:
    from cloudtune.recipe.spec import Recipe

LEAST_BYTES = 400 * MIB
LEAST_BYTES_CPU = 250 * MIB


@dataclass(frozen=True, slots=True)
class Evidence:
    """``bar`` is the half width as a fraction of the peak; ``words`` say what it rests on."""

    bar: float
    words: str


def evidence_for(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> Evidence:
    """The widest bar among everything that is not measured well about this job."""
    return max(_reasons(recipe, shape, layout, device), key=lambda item: item.bar)


def _reasons(recipe: Recipe, shape: ModelShape, layout: Layout, device: Device) -> list[Evidence]:
    found = [Evidence(0.03, "replay checked against 112 published runs: allocated within 0.6 %, reserved within 3 % (16-bit, SDPA)")]
    if device.kind == "cpu":
        found.append(Evidence(0.25, "host memory: the C allocator and the page cache are not modelled"))
    elif not any(name in device.name for name in CONTEXT_MIB):
        found.append(Evidence(0.05, f"no published context size for {device.name}: a class value is used"))
    if is_full(recipe.method):
        found.append(Evidence(0.05, "full training: traced on the CPU, measured on BERT-large only"))
    if is_qlora(recipe.method):
        int8 = recipe.method.quantization == "int8"
        found.append(
            Evidence(0.1, "8-bit training: modelled, not measured") if int8 else Evidence(0.05, "4-bit: measured on T4 and RTX 4080")
        )
    if any(block.mlp.kind == "moe" for block in shape.blocks):
        found.append(Evidence(0.12, "mixture of experts: traced on the CPU, no published run with a stated configuration"))
    kinds = {block.attention.kind for block in shape.blocks if block.attention is not None}
    if "mla" in kinds:
        found.append(Evidence(0.15, "latent attention: traced on the CPU, not measured"))
    if "linear" in kinds:
        found.append(Evidence(0.25, "linear attention: counted by its large tensors, not measured"))
    if layout.data_parallel > 1:
        found.append(Evidence(0.15, "several GPUs: communication buffers are class values"))
    return found
