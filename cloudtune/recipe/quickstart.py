"""The size of ``builtin:quickstart``, the small base model that is pre-trained on this machine. Constants only.

The launcher reckons with these numbers and the trainer builds a transformers ``LlamaConfig`` from them, so they
live on the floor that both may import. The keys of the config are those of a transformers ``config.json``.
"""

from __future__ import annotations

from typing import Any, Final

QUICKSTART_BASE: Final = "builtin:quickstart"

# Small and shallow, because the time to pre-train it is the newcomer's waiting time: 0.66 M weights see 0.3 M tokens in
# half a minute to a minute of one core. Every matrix has a multiple of 64 weights per row, so that 4-bit blocks never cross rows.
QUICKSTART_CONFIG: Final[dict[str, Any]] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 2048,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "dtype": "float32",
}

# How it is pre-trained. Rates were chosen by held-out loss after an equal number of CPU seconds; what it takes is in docs/trainer.md.
QUICKSTART_RECIPE: Final[dict[str, Any]] = {
    "seed": 20260101,
    "steps": 300,
    "rows_per_step": 4,
    "window": 256,
    "warmup": 15,
    "matrix_rate": 0.01,
    "matrix_precision": "float32",  # of Muon's orthogonalisation; bfloat16 is emulated by many processors, at 3 times the step's time
    "other_rate": 0.006,
    "report_every": 10,
}
