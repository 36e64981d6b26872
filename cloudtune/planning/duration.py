"""How long a run takes: floating-point operations of the method ÷ what the machine achieves. Pure, in seconds.

First version: FLOPs are exact for the method; the achieved speed is a class value per GPU with a wide range.

FLOPs per token (N = weights in matrix products, L layers, h = heads x head_dim, S sequence length):
    forward 2N + 4·L·h·S/2 (causal attention) ; backward of activations the same again; of weights the same
    again when they are trained ; the recomputation of checkpointing one more forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloudtune.models.shape import ModelShape

# Dense 16-bit peak of one GPU in TFLOP/s, from the makers' data sheets (without sparsity).
PEAK_TFLOPS = {
    "T4": 65.0,
    "V100": 125.0,
    "P100": 18.7,
    "A10G": 70.0,
    "L4": 121.0,
    "L40S": 362.0,
    "A100": 312.0,
    "H100": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "B300": 2250.0,
    "GB200": 2500.0,
    "RTX PRO 6000": 503.0,
}
# Fraction of the peak that fine-tuning code of today reaches: low, expected, high. From the published runs listed in
# docs/accuracy.md: between 0.15 (short, unpacked rows) and 0.5 (packed, long rows); QLoRA loses 2-35 % to dequantising.
ACHIEVED = (0.15, 0.32, 0.5)
QUANTISED_FACTOR = 0.78
# One CPU core with AVX-512 in fp32, GFLOP/s: 1,600-1,800 tokens/s were measured on a 3.95 M model (2026-08, 2.3 GHz Xeon).
CPU_GFLOPS = (8.0, 25.0, 60.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """What must be computed. ``tokens`` includes padding; ``evaluations`` passes over ``eval_tokens``."""

    tokens: int
    sequence_tokens: int
    eval_tokens: int
    evaluations: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time with its range: low ≤ expected ≤ high."""

    expected: float
    low: float
    high: float

    def plus(self, other: Seconds) -> Seconds:
        return Seconds(self.expected + other.expected, self.low + other.low, self.high + other.high)


def forward_flops_per_token(shape: ModelShape, sequence_tokens: int) -> float:
    """2 FLOPs per weight in a matrix product, plus attention scores and values over half the sequence (causal)."""
    attention = sum(
        2.0 * len(block.layers) * block.attention.heads * block.attention.head_dim * sequence_tokens
        for block in shape.blocks
        if block.attention is not None
    )
    return 2.0 * active_weights(shape) + attention


def active_weights(shape: ModelShape) -> int:
    """Weights that take part in one token's matrix products: experts by the number used per token, tied heads once more."""
    total = 0
    for block in shape.blocks:
        used = (block.mlp.experts_per_token / block.mlp.experts) if block.mlp.experts else 1.0
        for tensor in block.tensors:
            if tensor.kind in ("linear", "router"):
                total += tensor.numel * len(block.layers)
            elif tensor.kind == "experts":
                total += int(tensor.numel * len(block.layers) * used)
    return total + shape.hidden_size * shape.vocab_size


def step_flops_per_token(shape: ModelShape, sequence_tokens: int, *, full: bool, checkpointing: bool) -> float:
    """FLOPs of one training step per token."""
    forward = forward_flops_per_token(shape, sequence_tokens)
    return forward * (2 + (1 if full else 0) + (1 if checkpointing else 0))


def training_seconds(
    shape: ModelShape,
    work: Workload,
    *,
    method: Literal["full", "lora", "qlora"],
    checkpointing: bool,
    gpu: str,
    workers: int,
) -> Seconds:
    """Time of all steps and evaluations on ``workers`` GPUs (``gpu`` == "cpu": one core does the work)."""
    step = step_flops_per_token(shape, work.sequence_tokens, full=method == "full", checkpointing=checkpointing)
    evaluation = forward_flops_per_token(shape, work.sequence_tokens)
    flops = work.tokens * step + work.eval_tokens * work.evaluations * evaluation
    low, expected, high = _achieved_flops(gpu, method)
    scaled = flops / (workers * _scaling(workers))
    return Seconds(scaled / expected, scaled / high, scaled / low)


def _achieved_flops(gpu: str, method: str) -> tuple[float, float, float]:
    factor = QUANTISED_FACTOR if method == "qlora" else 1.0
    if gpu == "cpu":
        return tuple(value * 1e9 for value in CPU_GFLOPS)  # type: ignore[return-value]
    peak = next((tflops for name, tflops in PEAK_TFLOPS.items() if name in gpu), None)
    if peak is None:
        peak = PEAK_TFLOPS["T4"]
    return tuple(value * factor * peak * 1e12 for value in ACHIEVED)  # type: ignore[return-value]


def _scaling(workers: int) -> float:
    """Fraction of linear speed-up that data parallel work keeps inside a machine: a class value."""
    return 1.0 if workers == 1 else 0.9


def startup_seconds(provider: str, weight_bytes: int, *, builtin: bool) -> Seconds:
    """Billed time before the first step: machine and image, download of the weights (at 0.1-1 GB/s), loading."""
    if provider == "local":
        build = 30.0 if builtin else 0.0
        return Seconds(20.0 + build, 8.0, 60.0 + 2 * build)
    download = weight_bytes / 0.3e9
    return Seconds(300.0 + download, 150.0 + weight_bytes / 1e9, 720.0 + weight_bytes / 0.1e9)
