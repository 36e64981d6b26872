"""What the training program does, as far as memory depends on it. Values only.

The default is cloudtune's own trainer; ``tests/trainer/test_memory_oracle.py`` keeps the two equal. Published runs of
other programs are other values (``benchmarks/memory/programs.py``), each field taken from that program's source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "adamw_8bit", "adamw_32bit", "lion_8bit", "adafactor", "sgd", "sgd_momentum"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One training program. Words are bytes per number: 2 = 16-bit, 4 = fp32."""

    name: str = "cloudtune trainer"
    # attention
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    sdpa_kernel: Literal["auto", "flash", "efficient", "math"] = "auto"
    """auto: what torch picks for the type, the heads and the GPU."""
    flash_built: bool = True
    """This build of torch has flash attention; its wheels for Windows have not."""
    expand_kv: bool = False
    """Keys and values are repeated to all heads before the kernel sees them."""
    weights_returned: bool = True
    """Eager attention hands its weights back even if nobody asked, so they live to the end of the layer (transformers from 4.48 on)."""
    padding_mask: bool = False
    """A mask of padding reaches the kernel: rows are padded instead of packed to full length."""
    # types
    compute_word: int = 2
    """The recipe's dtype."""
    half: bool = False
    """The 16-bit type is float16, not bfloat16."""
    autocast: bool = True
    """torch.autocast to the 16-bit type around the forward pass."""
    full_word: int = 4
    """Weights as stored when all of them are trained."""
    kbit_upcast: bool = False
    """peft.prepare_model_for_kbit_training: whatever is 16-bit and not quantised becomes fp32."""
    adapter_word: int = 4
    rotary_product: bool = False
    """The rotary angles are a matrix product, the first of the run (transformers 5.0 to 5.17; 5.23 multiplies number by number)."""
    # the step
    loss: Literal["full", "chunked"] = "full"
    """chunked: cross-entropy over a few tokens at a time, each chunk checkpointed, logits never whole."""
    chunk_tokens: int = 1024
    shifted_logits: bool = False
    """transformers before 4.45: all logits are widened in place of the 16-bit ones, then copied without the last token."""
    loss_inside: bool = False
    """The model computes the loss itself (labels are passed in), so its hidden states are alive during the loss."""
    outputs_held: bool = False
    """The logits of the forward pass are still referenced during the backward pass."""
    outputs_overlap: bool = False
    """The logits of one step are still referenced during the next step's forward pass."""
    checkpointing: bool = True
    reentrant: bool = False
    input_gradients: bool = True
    """The embeddings' output is made to require a gradient (needed by checkpointing of a frozen base)."""
    accumulation: bool = False
    """Gradients of earlier micro batches are present when a later one runs."""
    gradients_kept: bool = False
    """zero_grad fills gradients with zeros instead of dropping them."""
    # the optimizer
    optimizer: Optimizer = "adamw"
    optimizer_kernel: Literal["fused", "foreach", "loop"] = "fused"
    paged: bool = False
    """Optimizer states of 100,000 numbers and more lie in CUDA managed memory, outside torch's allocator."""
    embeddings_32bit: bool = True
    """8-bit optimizers keep the states of embedding tables in fp32."""
    clip_gradients: bool = True
    # several devices
    copy_out: bool = True
    """FSDP2: layers are gathered into a buffer and copied out of it. False: FSDP1's flat parameter, which is its own buffer."""
    reduce_word: int = 4
    """The type in which sharded gradients are added up."""
    # the process
    allocator: Literal["native", "expandable"] = "expandable"
    loading: Literal["host", "device"] = "device"
    """host: built in host memory, then moved; device: read straight to the GPU behind one warm-up allocation."""
    empty_cache_after_load: bool = True
    peak_from: Literal["load", "second step"] = "load"
    """From where on the program's own measurement looks for its peak."""
    torch_version: tuple[int, int] = (2, 13)


CLOUDTUNE = Behaviour()
