"""``config.json`` -> ``ModelShape``: which model type is built by whom, and the way into multimodal configs. Pure, no torch.

A multimodal config (``text_config`` inside) gives the shape of its text part alone, as the text class of transformers
builds it: that is what a text job trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloudtune.errors import SourceError
from cloudtune.models import encoders, others
from cloudtune.models.decoders import STYLES
from cloudtune.models.defaults import DEFAULTS
from cloudtune.models.fields import Fields, shown
from cloudtune.models.shape import ModelShape

ESSENTIAL = frozenset({"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"})

BUILDERS: dict[str, Callable[[Fields], ModelShape]] = {
    **{model_type: style.build for model_type, style in STYLES.items()},
    "bert": encoders.bert,
    "roberta": encoders.roberta,
    "distilbert": encoders.distilbert,
    "modernbert": encoders.modernbert,
    "phi": others.phi,
    "falcon": others.falcon,
    "gemma4_text": others.gemma4,
    "deepseek_v4": others.deepseek_v4,
}
# Wrappers whose text_config does not always say its own type: wrapper -> type of its text part in transformers 5.23.
WRAPPERS: dict[str, str] = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}


def known_types() -> tuple[str, ...]:
    """Every model type that can be reckoned, wrappers included, sorted."""
    return tuple(sorted({*BUILDERS, *WRAPPERS}))


def shape_of(config: Mapping[str, Any], *, source: str) -> ModelShape:
    """The shape of the model a ``config.json`` describes. ``source`` says where it was read, for messages.

    Raises SourceError for unknown model types and for missing, mistyped or impossible values, naming the key.
    """
    if not isinstance(config, Mapping):
        raise SourceError(f"a model config is an object, not {shown(config)}", where=source, code="bad-model-config")
    inner, wrapped = text_part(config, source)
    model_type = inner["model_type"]
    essential = frozenset() if wrapped else ESSENTIAL
    fields = Fields(inner, DEFAULTS[model_type], where=source, essential=essential)
    shape = BUILDERS[model_type](fields)
    return shape.with_source(f"{source}, text part of {config['model_type']}") if wrapped else shape


def text_part(config: Mapping[str, Any], source: str) -> tuple[dict[str, Any], bool]:
    """The config of the text model with its model_type, and whether it lay inside a multimodal one."""
    outer = config.get("model_type")
    if not isinstance(outer, str) or not outer:
        raise SourceError(
            "model_type: missing in the model's config",
            where=source,
            hint="a transformers config.json says model_type; is this another kind of file?",
            code="bad-model-config",
        )
    inner = config.get("text_config")
    if outer in BUILDERS or not isinstance(inner, Mapping):
        if outer not in BUILDERS:
            if outer in WRAPPERS and inner is None:
                return {"model_type": WRAPPERS[outer]}, True
            raise unknown_type(outer, source)
        return dict(config), False
    inner_type = inner.get("model_type") or WRAPPERS.get(outer)
    if not isinstance(inner_type, str) or inner_type not in BUILDERS:
        raise unknown_type(inner_type if isinstance(inner_type, str) else outer, source)
    text = {**inner, "model_type": inner_type}
    for key in ("tie_word_embeddings", "dtype", "torch_dtype"):  # said once, outside
        if text.get(key) is None and config.get(key) is not None:
            text[key] = config[key]
    return text, True


def unknown_type(model_type: str, source: str) -> SourceError:
    """The error for a family we have no template for."""
    return SourceError(
        f"model type {shown(model_type)} is not known",
        where=source,
        hint=f"known: {', '.join(known_types())}. For others: `cloudtune estimate --exact` builds the model with an installed "
        "transformers; or point model.config at the config.json of a known model of the same architecture",
        code="unknown-model-type",
    )
