"""How long a run takes, in seconds, with a range. Pure; the constants come from published measurements.

One micro step of T tokens on one GPU (peak P, memory bandwidth B; L layers, h hidden size, N weights in matrix products):

    products     2·N·T·(2 + 1 when all weights are trained + 1 with checkpointing) / (P · products)
    attention    4·w·T·S/2 forward (causal, w = Σ heads x head size), x 1 again with checkpointing, x 2.5 backward, / (P · products)
    elementwise  norms, activations, residuals, adapters: 2·L·T·h bytes x accesses, per pass, / B
    weights      each pass reads them once: bytes / B
    dequantise   QLoRA writes every quantised weight out in 16 bits, per pass: 2.5 bytes x weights / (B · dequantise)
    launch       the host cannot start a layer's kernels faster than ``launch`` seconds per layer and pass

    micro step = ((products + attention + elementwise + weights)^4 + launch^4)^(1/4) + dequantise

and a step is its micro steps, with the gathers of FSDP hidden behind them as far as they fit, the gradient exchange
and the optimizer. ``Constants`` were fitted by benchmarks/planning/fit.py on two thirds of the rows of
planning/data/throughput.csv that can be scored; docs/accuracy.md shows every row, the held-out third apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloudtune.models.shape import Block, ModelShape
from cloudtune.planning.speeds import GpuSpeed, Wires
from cloudtune.recipe.layout import Layout

Kernels = Literal["hf", "compiled"]
NORM = 4
BACKWARD_ATTENTION = 2.5
NF4_BYTES = 0.53  # per weight, with its scales
INT8_BYTES = 1.0
OPTIMIZER_BYTES = 28  # read and written per trained weight by AdamW in 32 bits: weight, gradient, two moments
PCIE_SHARE = 0.5  # of the nominal speed that collectives reach through the host's memory: a class value
NETWORK_SHARE = 0.6  # the same between machines, with EFA or GPUDirect: a class value
SHARD_SECONDS = 0.0006  # per layer and micro step, to gather and drop its shards: a class value
# One CPU core with AVX-512 in fp32, FLOP/s: 1,600-1,800 tokens/s were measured on a 3.95 M model (2026-08, 2.3 GHz Xeon).
CPU_FLOPS = (8e9, 25e9, 60e9)
# Factor around the expected time that holds nine of ten scored rows, for GPUs with published rows and for the others.
SPREAD_MEASURED = 1.65
SPREAD_UNMEASURED = 2.0


@dataclass(frozen=True, slots=True)
class Constants:
    """What was fitted. Fractions of a nominal speed, memory accesses per hidden element and pass, seconds."""

    products: float = 0.75
    accesses: float = 104.0
    adapter_accesses: float = 130.0
    launch: float = 0.0014
    dequantise: float = 0.11
    compiled: float = 0.65
    """Part of the elementwise accesses and launches that is left when the kernels are fused (torch.compile, Triton, TE)."""
    link: float = 0.26


FITTED = Constants()


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """What time depends on. ``active``: weights in the matrix products of one token, the head apart."""

    layers: int
    hidden: int
    active: int
    head: int
    attention_width: int
    """Sum over the layers of heads x head size."""
    stored: int
    """All weights of the layers: more than ``active`` when only some experts see a token."""
    quantised: int
    """Weights that a quantised base keeps in 4 or 8 bits."""
    parameters: int


@dataclass(frozen=True, slots=True)
class Task:
    """How the model is trained: method, quantisation, and the length that attention sees."""

    method: Literal["full", "lora", "qlora"]
    sequence_tokens: int
    trained: int
    """Number of trained weights."""
    quantised_bytes: float = NF4_BYTES
    kernels: Kernels = "hf"


@dataclass(frozen=True, slots=True)
class Machine:
    """The speed of what the work lies on."""

    gpu: GpuSpeed
    wires: Wires


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time with its range: low ≤ expected ≤ high."""

    expected: float
    low: float
    high: float

    def plus(self, other: Seconds) -> Seconds:
        return Seconds(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Seconds:
        return Seconds(self.expected * factor, self.low * factor, self.high * factor)


def model_numbers(shape: ModelShape) -> ModelNumbers:
    """The numbers of a shape; experts count by the number used per token."""
    widths = [(block.attention.heads * block.attention.head_dim) * block.count for block in shape.blocks if block.attention is not None]
    return ModelNumbers(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        active=sum(_active(block) * block.count for block in shape.blocks),
        head=shape.hidden_size * shape.vocab_size,
        attention_width=sum(widths),
        stored=sum(block.parameters * block.count for block in shape.blocks),
        quantised=sum(tensor.numel * block.count for block in shape.blocks for tensor in block.tensors if tensor.kind == "linear"),
        parameters=shape.parameters,
    )


def _active(block: Block) -> int:
    used = block.mlp.experts_per_token / block.mlp.experts if block.mlp.experts else 1.0
    share = {"linear": 1.0, "router": 1.0, "experts": used}
    return round(sum(tensor.numel * share.get(tensor.kind, 0.0) for tensor in block.tensors))


def micro_step_seconds(
    model: ModelNumbers, task: Task, tokens: int, *, checkpointing: bool, gpu: GpuSpeed, constants: Constants = FITTED
) -> float:
    """Forward and backward of ``tokens`` tokens on one GPU, in seconds."""
    again = 1 if checkpointing else 0
    full = 1 if task.method == "full" else 0
    fused = constants.compiled if task.kernels == "compiled" else 1.0
    products = 2.0 * tokens * (model.active * (2 + full + again) + model.head * (2 + full))
    attention = 2.0 * model.attention_width * tokens * task.sequence_tokens * (1 + again + BACKWARD_ATTENTION)
    accesses = constants.accesses + (0 if full else constants.adapter_accesses)
    passes = 3 + again  # the backward pass moves about twice the bytes of the forward pass
    elementwise = 2.0 * model.layers * tokens * model.hidden * accesses * fused * passes
    weights = _weight_bytes(model, task) * (2 + full + again)
    busy = (products + attention) / (gpu.flops * constants.products) + (elementwise + weights) / gpu.bandwidth
    launch = model.layers * passes * constants.launch * fused
    return _norm(busy, launch) + _dequantise_seconds(model, task, 2 + again, gpu, constants)


def _dequantise_seconds(model: ModelNumbers, task: Task, passes: int, gpu: GpuSpeed, constants: Constants) -> float:
    return 2.5 * model.quantised * passes / (gpu.bandwidth * constants.dequantise) if task.method == "qlora" else 0.0


def _weight_bytes(model: ModelNumbers, task: Task) -> float:
    """Bytes of the layers' weights as the GPU holds them."""
    if task.method != "qlora":
        return 2.0 * model.stored
    return task.quantised_bytes * model.quantised + 2.0 * (model.stored - model.quantised)


def _norm(first: float, second: float) -> float:
    """Two activities side by side: little more than the longer one."""
    return float((first**NORM + second**NORM) ** (1 / NORM))


def step_seconds(model: ModelNumbers, task: Task, layout: Layout, tokens: int, machine: Machine, *, constants: Constants = FITTED) -> float:
    """One optimizer step of a layout, ``tokens`` tokens in every micro batch, in seconds."""
    micro = micro_step_seconds(model, task, tokens, checkpointing=layout.gradient_checkpointing, gpu=machine.gpu, constants=constants)
    workers = layout.data_parallel
    link = _link(machine.wires, layout.nodes, constants)
    shards = workers if layout.sharding == "fsdp" else 1
    exchanged = 4.0 * task.trained * (workers - 1) / workers / link
    extra = 0.0
    if layout.sharding == "fsdp":
        gathered = 2 * _weight_bytes(model, task) * (workers - 1) / workers / link
        micro = _norm(micro, gathered) + exchanged + SHARD_SECONDS * model.layers
    elif workers > 1:
        # Replicas exchange once a step, while the last micro batch goes backward.
        extra = _norm(micro, 2 * exchanged) - micro
    if layout.cpu_offload:
        # Shards come from, and gradients go to, host memory over PCIe.
        micro += (_weight_bytes(model, task) + 4.0 * task.trained) / shards / (16e9 * PCIE_SHARE)
    optimizer = OPTIMIZER_BYTES * task.trained / shards / machine.gpu.bandwidth
    return micro * layout.gradient_accumulation_steps + extra + optimizer


def _link(wires: Wires, nodes: int, constants: Constants) -> float:
    """Bytes/s that collectives get out of the wires: the slower of those inside a machine and between machines."""
    inside = wires.inside * (constants.link if wires.switched else PCIE_SHARE)
    return inside if nodes == 1 else min(inside, wires.between * NETWORK_SHARE)


def forward_flops_per_token(model: ModelNumbers, sequence_tokens: int) -> float:
    """2 FLOPs per weight in a matrix product, plus attention scores and values over half the sequence (causal)."""
    return 2.0 * (model.active + model.head) + 2.0 * model.attention_width * sequence_tokens


def cpu_seconds(model: ModelNumbers, task: Task, tokens: int, *, checkpointing: bool, forward_tokens: int = 0) -> Seconds:
    """Training on ``tokens`` tokens and evaluating on ``forward_tokens`` with one core in 32 bits."""
    forward = forward_flops_per_token(model, task.sequence_tokens)
    passes = 2 + (1 if task.method == "full" else 0) + (1 if checkpointing else 0)
    flops = forward * (tokens * passes + forward_tokens)
    low, expected, high = CPU_FLOPS
    return Seconds(flops / expected, flops / high, flops / low)


def spread(gpu: GpuSpeed) -> float:
    """The factor around the expected time within which nine of ten runs of this GPU should lie."""
    return SPREAD_MEASURED if gpu.measured else SPREAD_UNMEASURED


BOOT = {"local": Seconds(5, 2, 15), "aws": Seconds(200, 120, 420), "gcp": Seconds(260, 150, 600)}
"""Billed before our code runs: machine, image pull (about 8 GB) and its unpacking. Class values per place."""
LOAD_BYTES = Seconds(0.3e9, 0.1e9, 1e9)
"""Weights over the network, bytes/s: a hub or bucket download as users report it, slow and fast."""
PROGRAM_SECONDS = Seconds(20, 8, 45)
"""Imports of torch and transformers, tokenizer, first kernels."""
UPLOAD_BYTES = 0.2e9


def startup_seconds(provider: str, weight_bytes: float, *, quantised: bool, builtin: bool) -> Seconds:
    """Billed time before the first step: machine and image, weights, and quantising them while they load (1-2 GB/s)."""
    if builtin:
        return BOOT["local"].plus(PROGRAM_SECONDS).plus(Seconds(25, 5, 60))
    boot = BOOT.get(provider, BOOT["gcp"])
    download = Seconds(weight_bytes / LOAD_BYTES.expected, weight_bytes / LOAD_BYTES.high, weight_bytes / LOAD_BYTES.low)
    if provider == "local":
        download = download.times(0.2)  # the model is usually in the cache, read from disk
    quantise = weight_bytes / 1.5e9 if quantised else 0.0
    return boot.plus(PROGRAM_SECONDS).plus(download).plus(Seconds(quantise, quantise / 2, quantise * 2))


def finish_seconds(provider: str, result_bytes: float) -> Seconds:
    """Saving the result and bringing it to the store."""
    seconds = 5 + (0.0 if provider == "local" else result_bytes / UPLOAD_BYTES)
    return Seconds(seconds, seconds / 2, seconds * 3)
