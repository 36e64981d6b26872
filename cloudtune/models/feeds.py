"""The feed-forward parts: gated MLPs, one fused gate-and-up matrix, and mixtures of experts in their layouts. Pure."""

from __future__ import annotations

from cloudtune.models.fields import Fields
from cloudtune.models.parts import Feed, Tensors, experts, gated, linear, parameter, router, transposed_experts
from cloudtune.models.shape import MlpShape


def activation(fields: Fields) -> str:
    """The activation's name, under any of the keys that families use."""
    return fields.text("hidden_act", "hidden_activation", "activation")


def dense(fields: Fields, *, prefix: str = "mlp", width_key: str = "intermediate_size", may_bias: bool = False) -> Feed:
    """gate, up, down as three matrices. ``may_bias``: the family obeys the config's ``mlp_bias``."""
    width = fields.integer(width_key)
    tensors = gated(prefix, fields.integer("hidden_size"), width, bias=may_bias and fields.flag("mlp_bias"))
    return Feed(MlpShape("gated", width, activation(fields)), tensors)


def fused_dense(fields: Fields) -> Feed:
    """Gate and up in one matrix (Phi-3)."""
    hidden, width = fields.integer("hidden_size"), fields.integer("intermediate_size")
    tensors = (*linear("mlp.gate_up_proj", 2 * width, hidden), *linear("mlp.down_proj", hidden, width))
    return Feed(MlpShape("gated", width, activation(fields), fused=True), tensors)


def moe_shape(fields: Fields, *, width: int, shared: int = 0) -> MlpShape:
    """The integers of a mixture of experts; experts used per token must not exceed the experts there are."""
    count = expert_count(fields)
    used = fields.integer("num_experts_per_tok")
    if used > count:
        raise fields.fault("num_experts_per_tok", f"{used} is more than the {count} experts there are")
    return MlpShape("moe", 0, activation(fields), count, used, width, shared, fused=True)


def expert_count(fields: Fields) -> int:
    """Number of routed experts, under any of the keys that families use."""
    return fields.integer("num_local_experts", "num_experts", "n_routed_experts")


def mixtral(fields: Fields) -> Feed:
    """Router, then experts of the full MLP width."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("intermediate_size"), expert_count(fields)
    return Feed(moe_shape(fields, width=width), (*router("mlp.gate.weight", count, hidden), *experts("mlp.experts", count, hidden, width)))


def qwen3(fields: Fields) -> Feed:
    """Narrow experts, then their router."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("moe_intermediate_size"), expert_count(fields)
    return Feed(moe_shape(fields, width=width), (*experts("mlp.experts", count, hidden, width), *router("mlp.gate.weight", count, hidden)))


def qwen3_next(fields: Fields) -> Feed:
    """Router, experts, and a shared expert behind its own gate."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("moe_intermediate_size"), expert_count(fields)
    shared = fields.integer("shared_expert_intermediate_size")
    tensors: Tensors = (
        *router("mlp.gate.weight", count, hidden),
        *experts("mlp.experts", count, hidden, width),
        *gated("mlp.shared_expert", hidden, shared),
        *linear("mlp.shared_expert_gate", 1, hidden),
    )
    return Feed(moe_shape(fields, width=width, shared=shared), tensors)


def gpt_oss(fields: Fields) -> Feed:
    """Router with bias, experts stored transposed and with biases."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("intermediate_size"), expert_count(fields)
    tensors = (
        *router("mlp.router.weight", count, hidden),
        *parameter("mlp.router.bias", count, kind="bias"),
        *transposed_experts("mlp.experts", count, hidden, width, bias=True),
    )
    return Feed(moe_shape(fields, width=width), tensors)


def deepseek(fields: Fields, *, may_bias: bool = False) -> Feed:
    """Narrow experts, their router, and shared experts fused into one MLP. ``may_bias``: obeys ``mlp_bias``."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("moe_intermediate_size"), expert_count(fields)
    shared = width * fields.integer("n_shared_experts")
    tensors = (
        *experts("mlp.experts", count, hidden, width),
        *router("mlp.gate.weight", count, hidden),
        *gated("mlp.shared_experts", hidden, shared, bias=may_bias and fields.flag("mlp_bias")),
    )
    return Feed(moe_shape(fields, width=width, shared=shared), tensors)


def llama4(fields: Fields) -> Feed:
    """Transposed experts, a router that is an nn.Linear, one shared expert of the same width."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("intermediate_size"), expert_count(fields)
    tensors = (
        *transposed_experts("feed_forward.experts", count, hidden, width),
        *linear("feed_forward.router", count, hidden, plain=False),
        *gated("feed_forward.shared_expert", hidden, width),
    )
    return Feed(moe_shape(fields, width=width, shared=width), tensors)


def deepseek_v4(fields: Fields) -> Feed:
    """Router first, then experts and one shared expert of the same width each (DeepSeek V4)."""
    hidden, width, count = fields.integer("hidden_size"), fields.integer("moe_intermediate_size", "intermediate_size"), expert_count(fields)
    tensors = (
        *router("mlp.gate.weight", count, hidden),
        *experts("mlp.experts", count, hidden, width),
        *gated("mlp.shared_experts", hidden, width, bias=fields.flag("mlp_bias")),
    )
    return Feed(moe_shape(fields, width=width, shared=width), tensors)
