"""A model small enough for a laptop: the same class, few layers, small widths. Pure arithmetic on a config.json's values.

Everything that decides which code runs stays: the architecture, its attention kind, activation, tied embeddings,
mixture of experts, the pattern of layer kinds. Everything that only decides how much of it runs becomes small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

HIDDEN = 64
HEADS = 4
HEAD = HIDDEN // HEADS
LAYERS = 2
MOST_EXPERTS = 4

# Several names for one thing: each family has its own.
_WIDTHS: Final[dict[str, int]] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim", "embedding_size"), HIDDEN),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "shared_expert_intermediate_size"), 2 * HIDDEN),
    "moe_intermediate_size": HIDDEN,
    "kv_lora_rank": HEAD,
    "q_lora_rank": 2 * HEAD,
    "qk_nope_head_dim": HEAD,
    "qk_rope_head_dim": HEAD // 2,
    "v_head_dim": HEAD,
    "head_dim": HEAD,
    "global_head_dim": HEAD,
    "attention_head_dim": HEAD,
    "query_pre_attn_scalar": HEAD,
    "hidden_size_per_layer_input": HEAD,
    "linear_key_head_dim": HEAD,
    "linear_value_head_dim": HEAD,
}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_SETTLED: Final[dict[str, int]] = {"n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "num_kv_shared_layers": 0}
_DROPPED = ("quantization_config", "vision_config", "audio_config", "auto_map", "_name_or_path", "transformers_version", "architectures")
_ROPE_LISTS = ("short_factor", "long_factor")


def shrunk_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A small config of the same ``model_type``. Keys that are not known here are kept as they are."""
    whole = dict(config.get("text_config") or {}) or dict(config)
    whole.setdefault("model_type", config.get("model_type"))
    small = {key: value for key, value in whole.items() if key not in _DROPPED}
    small.update({key: size for key, size in _WIDTHS.items() if small.get(key) is not None})
    small.update({key: value for key, value in _SETTLED.items() if small.get(key) is not None})
    layers = _layer_count(whole)
    small.update(dict.fromkeys([key for key in _LAYER_COUNTS if key in small], layers))
    small.update({key: _cut(value, layers) for key, value in whole.items() if key in ("layer_types", "mlp_layer_types", "no_rope_layers")})
    small.update(_heads(whole))
    small.update(_experts(small))
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(small.get(key), Mapping):
            small[key] = _rope(small[key])
    return small


def _layer_count(config: Mapping[str, Any]) -> int:
    """Two layers, or as many as it takes to have one of each kind, in the model's own order."""
    needed = LAYERS
    kinds = config.get("layer_types")
    if isinstance(kinds, Sequence) and kinds and not isinstance(kinds, str):
        needed = max(needed, *(list(kinds).index(kind) + 1 for kind in set(kinds)))
    for key in ("sliding_window_pattern", "full_attention_interval", "hybrid_attention_period", "attn_layer_period"):
        if isinstance(config.get(key), int):
            needed = max(needed, int(config[key]))
    return max(needed, int(config.get("first_k_dense_replace") or 0) and 2)


def _cut(values: Any, layers: int) -> Any:
    return list(values)[:layers] if isinstance(values, Sequence) and not isinstance(values, str) else values


def _heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Few heads, grouped as the model groups them: one key head for all, one for some, or one for each."""
    found: dict[str, Any] = {}
    for key in _HEAD_COUNTS:
        if key in config:
            found[key] = HEADS
            shared = config.get("num_key_value_heads")
            if shared:
                found["num_key_value_heads"] = max(1, HEADS * int(shared) // int(config[key]))
            if config.get("num_global_key_value_heads"):
                found["num_global_key_value_heads"] = 1
    for key in ("linear_num_key_heads", "linear_num_value_heads"):
        if config.get(key):
            found[key] = 2
    return found


def _experts(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {key: min(int(config[key]), MOST_EXPERTS) for key in _EXPERT_COUNTS if config.get(key)}
    for key in ("num_experts_per_tok", "num_experts_per_token", "top_k_experts"):
        if found and config.get(key):
            found[key] = min(int(config[key]), 2)
    if config.get("n_routed_experts"):
        found.update(n_group=1, topk_group=1)  # four experts make no eight groups, which is DeepSeek's default
    if config.get("first_k_dense_replace") is not None:
        found["first_k_dense_replace"] = min(int(config["first_k_dense_replace"]), 1)
    return found


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Factors per frequency are cut to the small head's; sections of several position kinds are scaled to it."""
    cut = {key: _rope(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    cut.update({key: list(cut[key])[: HEAD // 2] for key in _ROPE_LISTS if isinstance(cut.get(key), Sequence)})
    if "mrope_section" in cut:
        cut["mrope_section"] = [HEAD // 2 - 2 * (HEAD // 8), HEAD // 8, HEAD // 8]
    return cut
