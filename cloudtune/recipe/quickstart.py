"""The size of `builtin:quickstart`, the small base model that is pre-trained on this machine. Constants only.

The launcher reckons with these numbers and the trainer builds a transformers ``LlamaConfig`` from them, so they
live on the floor that both may import. The keys are those of a transformers ``config.json``.
"""

from __future__ import annotations

from typing import Any, Final

QUICKSTART_BASE: Final = "builtin:quickstart"

QUICKSTART_CONFIG: Final[dict[str, Any]] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "vocab_size": 2048,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "dtype": "float32",
}
