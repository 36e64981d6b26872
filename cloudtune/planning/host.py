"""Host memory that a job needs beside the GPU's: loading, sharding, offloading, merging. Pure, in bytes.

Weights are read from safetensors files piece by piece straight to the GPU, so one process needs itself and the
largest file. Under FSDP the first process of all holds the whole model once while it is dealt out (cloudtune_trainer/sharding.py), in the
type it is stored in, fp32 at most; machines are alike, so each must have the room.
"""

from __future__ import annotations

from cloudtune.models.shape import ModelShape
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.spec import FullMethod, Recipe
from cloudtune.units import GIB

PROCESS_BYTES = 3 * GIB  # Python, torch with CUDA, tokenizer, data workers
LARGEST_FILE_BYTES = 5 * GIB  # hub repositories split weights at 5 GB
SYSTEM_BYTES = 2 * GIB


def host_bytes(recipe: Recipe, shape: ModelShape, layout: Layout) -> int:
    """Host memory per machine for a job on GPUs."""
    processes = max(1, layout.gpus)
    stored = 2 * shape.parameters
    needed = SYSTEM_BYTES + processes * PROCESS_BYTES + min(stored, LARGEST_FILE_BYTES)
    if layout.sharding == "fsdp":
        needed += 2 * stored if isinstance(recipe.method, FullMethod) else stored
    if layout.cpu_offload:
        trained = 14 * shape.parameters if isinstance(recipe.method, FullMethod) else stored
        needed += trained // layout.nodes
    if recipe.output.merge and not isinstance(recipe.method, FullMethod):
        needed = max(needed, SYSTEM_BYTES + PROCESS_BYTES + stored)
    return needed
