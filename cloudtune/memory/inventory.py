"""Every resident tensor of a job: how each parameter is stored, which are trained, where the adapters sit. Pure.

Weights are 16-bit (or fp32 when all are trained), quantised ones packed by bitsandbytes; see ``stored``. Layers that
are alike are built once per *real* layer of the run and counted for the folded ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloudtune.errors import UsageError
from cloudtune.memory.autograd import Leaf
from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.lora import Adapter, LinearLayer
from cloudtune.memory.ops import Weight
from cloudtune.models.shape import Block, ModelShape, Tensor
from cloudtune.recipe.method import is_full, is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.method import Method
    from cloudtune.recipe.spec import LoraMethod

BLOCK = 64  # numbers per scale of NF4 and FP4
NESTED_BLOCK = 256  # scales per scale of double quantisation
ATTENTION_PARTS = frozenset({"self_attn", "attention", "attn", "self_attention", "linear_attn"})


@dataclass(frozen=True, slots=True)
class Stored:
    """How a parameter lies in device memory: pieces in bytes, and the 16-bit tensor it is made from (0 = none)."""

    kind: str
    pieces: tuple[tuple[str, int], ...]
    source_bytes: int = 0

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.pieces)


def stored(tensor: Tensor, name: str, method: Method, behaviour: Behaviour, output: str) -> Stored:
    """The stored form of a parameter. Linear weights but the output embedding are quantised; all else stays as it is."""
    if not is_qlora(method) or tensor.kind != "linear" or name == output or tensor.tied_to is not None:
        word = behaviour.full_word if is_full(method) else behaviour.compute_word
        return Stored("weights", (("weight", tensor.numel * word),))
    count = tensor.numel
    if method.quantization == "int8":
        return Stored("weights", (("int8 weight", count), ("row scales", 4 * tensor.shape[0])), 2 * count)
    scales = -(-count // BLOCK)
    packed = (("packed weight", (count + 1) // 2),)
    if not method.double_quant:
        return Stored("weights", (*packed, ("scales", 4 * scales), ("code", 64)), 2 * count)
    nested = -(-scales // NESTED_BLOCK)
    small = (("code", 64), ("nested code", 1024), ("offset", 4))
    pieces = (*packed, ("8-bit scales", scales), ("scales of scales", 4 * nested), *small)
    return Stored("weights", pieces, 2 * count)


def output_name(shape: ModelShape) -> str:
    """Full name of the output embedding; empty for models without a vocabulary head."""
    wide = (shape.vocab_size, shape.hidden_size)
    return next((tensor.name for tensor in reversed(shape.head) if tensor.kind == "linear" and tensor.shape == wide), "")


def is_quantised(tensor: Tensor, name: str, method: Method, output: str) -> bool:
    """Whether bitsandbytes packs this parameter."""
    return is_qlora(method) and tensor.kind == "linear" and name != output and tensor.tied_to is None


def is_saved(tensor: Tensor, method: Method) -> bool:
    """Whether peft trains a copy of the tensor's module besides the original (``modules_to_save``, other.py ModulesToSaveWrapper)."""
    if is_full(method):
        return False
    return any(tensor.module == name or tensor.module.endswith(f".{name}") for name in method.modules_to_save)


def refuse_unreckoned(shape: ModelShape, method: Method) -> None:
    """Raises UsageError for trained modules that no template knows: those inside the layers, and new tokens of a tied table."""
    if is_full(method):
        return
    inside = sorted({tensor.module for block in shape.blocks for tensor in block.tensors if is_saved(tensor, method)})
    if inside:
        raise no_template(f"modules_to_save inside the layers ({', '.join(inside)})")
    if method.trainable_tokens and shape.tied:
        raise no_template("trainable_tokens of a model whose head shares its embeddings")


def is_target(module: str, targets: str | tuple[str, ...]) -> bool:
    """Whether the linear layer ``module`` (``self_attn.q_proj``) gets an adapter, by the rules of peft."""
    path = module.split(".")
    if targets == "all-linear":
        return True
    if targets == "attention":
        return any(piece in ATTENTION_PARTS for piece in path)
    return any(module == target or module.endswith(f".{target}") for target in targets)


@dataclass(slots=True, eq=False)
class Layer:
    """One layer of the run with everything the templates look up by name."""

    block: Block
    name: str
    linear: dict[str, LinearLayer] = field(default_factory=dict)
    norms: dict[str, tuple[Weight, Weight | None]] = field(default_factory=dict)
    experts: dict[str, Weight] = field(default_factory=dict)
    expert_adapters: dict[str, Adapter] = field(default_factory=dict)
    copies: int = 1
    """Layers that this one stands for: itself and the folded ones."""
    near_fold: bool = False

    def pair(self, prefix: str, names: tuple[tuple[str, str], ...]) -> tuple[LinearLayer, LinearLayer]:
        """The first pair of linear layers that exists under ``prefix``."""
        start = f"{prefix}." if prefix else ""
        for first, last in names:
            if start + first in self.linear and start + last in self.linear:
                return self.linear[start + first], self.linear[start + last]
        raise no_template(f"layers with {sorted(self.linear)}")

    def one(self, *names: str) -> LinearLayer:
        """The first linear layer of these names that exists."""
        for name in names:
            if name in self.linear:
                return self.linear[name]
        raise no_template(f"layers with {sorted(self.linear)}")

    def norm(self, *names: str) -> tuple[Weight, Weight | None] | None:
        """The first norm of these names that exists."""
        return next((self.norms[name] for name in names if name in self.norms), None)

    def shared_expert(self) -> str:
        """Prefix of the expert that every token sees; empty when there is none."""
        for name in ("mlp.shared_expert", "mlp.shared_experts", "feed_forward.shared_expert"):
            if f"{name}.gate_proj" in self.linear:
                return name
        return ""


def no_template(what: str) -> UsageError:
    """The refusal for an architecture that has no template: never a silent guess."""
    return UsageError(
        f"there is no memory template for {what}",
        hint="`cloudtune estimate --exact` traces the model's own code with an installed transformers; or point model.config at the "
        "config.json of a known model of the same architecture",
        code="no-memory-template",
    )


@dataclass(slots=True)
class Trained:
    """The trained parameters in the order in which the optimizer holds them."""

    groups: list[tuple[list[Leaf], int]] = field(default_factory=list)
    """Leaves of one layer (or of the ends) and how many layers they stand for."""
    stored_word: int = 0
    """Bytes per number of the stored parameters when it differs from the computing ones; 0 = it does not."""

    def open(self, copies: int) -> None:
        """What follows belongs to a layer that stands for ``copies``."""
        self.groups.append(([], copies))

    def leaf(self, name: str, count: int, word: int) -> Leaf:
        """A new trained parameter of the open layer."""
        leaf = Leaf(name, count, self.stored_word or word)
        self.groups[-1][0].append(leaf)
        return leaf

    @property
    def every(self) -> list[Leaf]:
        """All leaves, those of folded layers once per layer."""
        return [leaf for leaves, copies in self.groups for _ in range(copies) for leaf in leaves]


def build_layer(block: Block, index: int, copies: int, shape: ModelShape, method: Method, behaviour: Behaviour, trained: Trained) -> Layer:
    """Weights, adapters and leaves of one layer."""
    name = f"{shape.layers_name}.{index}"
    layer = Layer(block, name, copies=copies)
    trained.open(copies)
    full = is_full(method)
    weights: dict[str, Weight] = {}
    for tensor in block.tensors:
        word = weight_word(method, behaviour, quantised=is_quantised(tensor, "", method, output_name(shape)))
        whole = f"{name}.{tensor.name}"
        leaf = trained.leaf(whole, tensor.numel, word) if full and tensor.tied_to is None else None
        weights[tensor.name] = Weight(whole, tensor.numel, word, leaf=leaf)
    for tensor in block.tensors:
        module = tensor.module
        if tensor.kind == "linear":
            layer.linear[module] = linear_layer(f"{name}.", tensor, weights, method, behaviour, trained)
        elif tensor.kind == "norm" and tensor.name.endswith(".weight"):
            layer.norms[module] = (weights[tensor.name], weights.get(f"{module}.bias"))
        elif tensor.kind in {"experts", "router", "conv", "other"}:
            short = tensor.name.rpartition(".")[2]
            layer.experts[short] = weights[tensor.name]
            if tensor.kind == "experts" and not is_full(method) and _is_expert_target(tensor, block, method):
                layer.expert_adapters[short] = _expert_adapter(weights[tensor.name].name, tensor, method, behaviour, trained)
    return layer


def _is_expert_target(tensor: Tensor, block: Block, method: LoraMethod) -> bool:
    """all-linear reaches experts that are stored (expert, out, in); other layouts are reached by target_parameters."""
    if any(tensor.name.endswith(name) for name in method.target_parameters):
        return True
    if any(other.kind == "bias" and other.name == f"{tensor.name}_bias" for other in block.tensors):
        return False  # gpt-oss stores its experts the other way round
    return method.target_modules == "all-linear" and tensor.shape[1] in {2 * block.mlp.expert_width} | _hidden_of(block)


def _hidden_of(block: Block) -> set[int]:
    """Widths that a down projection stored (expert, out, in) may begin with."""
    return {tensor.shape[1] for tensor in block.tensors if tensor.kind == "experts" and tensor.shape[2] == block.mlp.expert_width}


def _expert_adapter(name: str, tensor: Tensor, method: LoraMethod, behaviour: Behaviour, trained: Trained) -> Adapter:
    """peft's ParamWrapper: rank x experts on both sides; a fused gate and up matrix counts as two."""
    count, out, into = tensor.shape
    rank = method.r * count * (2 if tensor.name.endswith("gate_up_proj") else 1)
    word = behaviour.adapter_word
    down = Weight(f"{name}.lora_A", rank * into, word, leaf=trained.leaf(f"{name}.lora_A", rank * into, word))
    up = Weight(f"{name}.lora_B", rank * out, word, leaf=trained.leaf(f"{name}.lora_B", rank * out, word))
    return Adapter(down, up, rank)


def weight_word(method: Method, behaviour: Behaviour, *, quantised: bool) -> int:
    """Bytes per number of a parameter that is not packed."""
    if is_full(method):
        return behaviour.full_word
    if is_qlora(method) and behaviour.kbit_upcast and not quantised:
        return 4
    return behaviour.compute_word


def linear_layer(
    prefix: str, tensor: Tensor, weights: dict[str, Weight], method: Method, behaviour: Behaviour, trained: Trained
) -> LinearLayer:
    """An nn.Linear with its storage and, when it is a target, its adapter. ``prefix`` names the layer that it is in."""
    module = tensor.module
    out, into = tensor.shape
    quantised = is_qlora(method)
    storage = "plain" if not quantised else "8bit" if method.quantization == "int8" else "4bit"  # type: ignore[union-attr]
    nested = is_qlora(method) and method.double_quant and method.quantization != "int8"
    adapter = None
    if not is_full(method) and is_target(module, method.target_modules):
        adapter = _adapter(f"{prefix}{module}", out, into, method, behaviour, trained)
    bias = weights.get(f"{module}.bias")
    return LinearLayer(module, out, into, weights[tensor.name], bias, storage, nested, adapter)  # type: ignore[arg-type]


def _adapter(name: str, out: int, into: int, method: LoraMethod, behaviour: Behaviour, trained: Trained) -> Adapter:
    word, rank = behaviour.adapter_word, method.r
    down = Weight(f"{name}.lora_A", rank * into, word, leaf=trained.leaf(f"{name}.lora_A", rank * into, word))
    up = Weight(f"{name}.lora_B", rank * out, word, leaf=trained.leaf(f"{name}.lora_B", rank * out, word))
    magnitude = None
    if method.use_dora:
        magnitude = Weight(f"{name}.magnitude", out, word, leaf=trained.leaf(f"{name}.magnitude", out, word))
    return Adapter(down, up, rank, method.dropout, magnitude)
