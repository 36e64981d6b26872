"""Decoders built like Llama: embedding, layers of (mixer, MLP, norms), final norm, head. One ``Style`` per family. Pure.

Parameter names, shapes and order follow transformers 5.23 (classes named in ``Style.architecture``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cloudtune.models import feeds
from cloudtune.models.assemble import Layer, Outline, assemble, fold, layer_count
from cloudtune.models.fields import Fields
from cloudtune.models.mixers import delta, fused_softmax, latent, softmax
from cloudtune.models.parts import Feed, Mixer, Tensors, embedding, linear, norm
from cloudtune.models.shape import ModelShape

FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"
KNOWN_LAYERS = frozenset({FULL, SLIDING, CHUNKED, LINEAR})
EMBEDDING = "model.embed_tokens"

LayerTypes = Callable[[Fields], tuple[str, ...]]
Sparse = Callable[[Fields], tuple[bool, ...]]


def all_full(fields: Fields) -> tuple[str, ...]:
    """Every layer sees the whole sequence."""
    return (FULL,) * layer_count(fields)


def all_alike(fields: Fields) -> tuple[str, ...]:
    """One window for every layer when the config sets one (Mistral, Phi-3)."""
    return ((SLIDING if fields.maybe_integer("sliding_window") else FULL),) * layer_count(fields)


def switched(fields: Fields) -> tuple[str, ...]:
    """A window for every layer, only when ``use_sliding_window`` turns it on (Qwen3-MoE)."""
    return all_alike(fields) if fields.flag("use_sliding_window") else all_full(fields)


def upper_layers(fields: Fields) -> tuple[str, ...]:
    """As written; else local from ``max_window_layers`` on, when ``use_sliding_window`` turns it on (Qwen2, Qwen3)."""
    on = fields.flag("use_sliding_window") and fields.maybe_integer("sliding_window") is not None
    count, first = layer_count(fields), fields.maybe_integer("max_window_layers", least=0) or 0
    written = fields.words("layer_types", count, KNOWN_LAYERS)
    kinds = written or tuple(SLIDING if index >= first else FULL for index in range(count))
    return kinds if on else (FULL,) * count


def every(fields: Fields, *, default: int, key: str | None = None, others: str = SLIDING) -> tuple[str, ...]:
    """As written; else every n-th layer is full and the ``others`` lie between."""
    count = layer_count(fields)
    step = (fields.maybe_integer(key) if key else None) or default
    written = fields.words("layer_types", count, KNOWN_LAYERS)
    return written or tuple(others if (index + 1) % step else FULL for index in range(count))


def without_rope(fields: Fields) -> tuple[str, ...]:
    """As written; else chunked where positions are rotated and full where they are not (Llama 4)."""
    count = layer_count(fields)
    rotated = fields.integers("no_rope_layers") or ()
    if rotated and len(rotated) != count:
        raise fields.fault("no_rope_layers", f"a list with one entry per layer ({count}) is expected")
    step = fields.maybe_integer("no_rope_layer_interval") or 4
    marks = rotated or tuple(int((index + 1) % step != 0) for index in range(count))
    return fields.words("layer_types", count, KNOWN_LAYERS) or tuple(CHUNKED if mark else FULL for mark in marks)


def never(fields: Fields) -> tuple[bool, ...]:
    """Dense layers only."""
    return (False,) * layer_count(fields)


def always(fields: Fields) -> tuple[bool, ...]:
    """Experts in every layer."""
    return (True,) * layer_count(fields)


def stepped(fields: Fields) -> tuple[bool, ...]:
    """Experts in every ``decoder_sparse_step``-th layer except ``mlp_only_layers`` (Qwen3-MoE, Qwen3-Next)."""
    step, dense = fields.integer("decoder_sparse_step"), fields.integers("mlp_only_layers") or ()
    return tuple(index not in dense and (index + 1) % step == 0 for index in range(layer_count(fields)))


def after_first(fields: Fields) -> tuple[bool, ...]:
    """Experts from layer ``first_k_dense_replace`` on (DeepSeek)."""
    first = fields.maybe_integer("first_k_dense_replace", least=0) or 0
    return tuple(index >= first for index in range(layer_count(fields)))


def interleaved(fields: Fields) -> tuple[bool, ...]:
    """Experts in ``moe_layers``; else in every ``interleave_moe_layer_step``-th layer (Llama 4)."""
    written, step = fields.integers("moe_layers"), fields.integer("interleave_moe_layer_step")
    return tuple(index in written if written is not None else (index + 1) % step == 0 for index in range(layer_count(fields)))


@dataclass(frozen=True, slots=True)
class Style:
    """What distinguishes one Llama-like family from another."""

    architecture: str
    mixer: Callable[[Fields, str], Mixer] = softmax
    feed: Callable[[Fields], Feed] = feeds.dense
    experts: Callable[[Fields], Feed] | None = None
    layer_types: LayerTypes = all_full
    sparse: Sparse = never
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    family: Literal["decoder", "encoder"] = "decoder"

    def build(self, fields: Fields) -> ModelShape:
        """The shape of a model of this family."""
        keys = tuple(zip(self.layer_types(fields), self.sparse(fields), strict=True))
        blocks = fold(keys, lambda key: self._layer(fields, *key), self.family)
        head = (*norm("model.norm", fields.integer("hidden_size")), *vocabulary(fields))
        outline = Outline(
            self.architecture,
            stem=embedding(EMBEDDING, fields.integer("vocab_size"), fields.integer("hidden_size")),
            head=head,
            family=self.family,
            final_softcap=fields.number("final_logit_softcapping"),
            attention_dropout=fields.number("attention_dropout") or 0.0,
        )
        return assemble(fields, outline, blocks)

    def _layer(self, fields: Fields, layer_type: str, sparse: bool) -> Layer:
        mixer = self.mixer(fields, layer_type)
        feed = self.experts(fields) if sparse and self.experts else self.feed(fields)
        norms: Tensors = tuple(tensor for name in self.norms for tensor in norm(name, fields.integer("hidden_size")))
        return Layer(mixer, feed, (*mixer.tensors, *feed.tensors, *norms))


def vocabulary(fields: Fields, *, bias: bool = False) -> Tensors:
    """lm_head, tied to the input embedding when the config says so."""
    tied = f"{EMBEDDING}.weight" if fields.flag("tie_word_embeddings") else None
    return linear("lm_head", fields.integer("vocab_size"), fields.integer("hidden_size"), bias=bias, tied_to=tied)


def hybrid(fields: Fields, layer_type: str, *, joined: bool) -> Mixer:
    """The gated delta rule in most layers, gated attention with normed heads in the rest (Qwen3-Next, Qwen3.5)."""
    if layer_type == LINEAR:
        return delta(fields, joined=joined)
    return softmax(fields, layer_type, qk_norm="head", gate=True)


_biased = partial(feeds.dense, may_bias=True)
_unbiased = partial(softmax, qkv_bias=False, out_bias=False)
_head_norms = partial(softmax, qk_norm="head")
_quarter = partial(every, default=4, key="full_attention_interval", others=LINEAR)
_four_norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_sixth = partial(every, default=6, key="sliding_window_pattern")

STYLES: dict[str, Style] = {
    "llama": Style("LlamaForCausalLM", feed=_biased),
    "mistral": Style("MistralForCausalLM", mixer=_unbiased, layer_types=all_alike),
    "ministral3": Style("Ministral3ForCausalLM", mixer=_unbiased, layer_types=all_alike),
    "qwen2": Style("Qwen2ForCausalLM", mixer=partial(softmax, qkv_bias=True, out_bias=False), layer_types=upper_layers),
    "qwen3": Style("Qwen3ForCausalLM", mixer=_head_norms, layer_types=upper_layers),
    "smollm3": Style("SmolLM3ForCausalLM", feed=_biased, layer_types=partial(every, default=1)),
    "olmo2": Style("Olmo2ForCausalLM", mixer=partial(softmax, qk_norm="all"), norms=_four_norms[1::2]),
    "phi3": Style("Phi3ForCausalLM", mixer=fused_softmax, feed=feeds.fused_dense, layer_types=all_alike),
    "gemma2": Style("Gemma2ForCausalLM", layer_types=partial(every, default=2), norms=_four_norms),
    "gemma3_text": Style("Gemma3ForCausalLM", mixer=_head_norms, layer_types=_sixth, norms=_four_norms),
    "eurobert": Style("EuroBertForMaskedLM", feed=_biased, family="encoder"),
    "mixtral": Style("MixtralForCausalLM", mixer=_unbiased, experts=feeds.mixtral, layer_types=all_alike, sparse=always),
    "qwen3_moe": Style("Qwen3MoeForCausalLM", mixer=_head_norms, experts=feeds.qwen3, layer_types=switched, sparse=stepped),
    "gpt_oss": Style(
        "GptOssForCausalLM",
        mixer=partial(softmax, sinks=True),
        experts=feeds.gpt_oss,
        layer_types=partial(every, default=2),
        sparse=always,
    ),
    "llama4_text": Style(
        "Llama4ForCausalLM",
        feed=partial(feeds.dense, prefix="feed_forward", width_key="intermediate_size_mlp"),
        experts=feeds.llama4,
        layer_types=without_rope,
        sparse=interleaved,
    ),
    "qwen3_next": Style(
        "Qwen3NextForCausalLM", mixer=partial(hybrid, joined=True), experts=feeds.qwen3_next, layer_types=_quarter, sparse=stepped
    ),
    "qwen3_5_text": Style("Qwen3_5ForCausalLM", mixer=partial(hybrid, joined=False), layer_types=_quarter),
    "qwen3_5_moe_text": Style(
        "Qwen3_5MoeForCausalLM", mixer=partial(hybrid, joined=False), experts=feeds.qwen3_next, layer_types=_quarter, sparse=always
    ),
    "deepseek_v2": Style(
        "DeepseekV2ForCausalLM",
        mixer=latent,
        feed=_biased,
        experts=partial(feeds.deepseek, may_bias=True),
        sparse=after_first,
    ),
    "deepseek_v3": Style("DeepseekV3ForCausalLM", mixer=latent, experts=feeds.deepseek, sparse=after_first),
    "mistral4": Style("Mistral4ForCausalLM", mixer=latent, experts=feeds.deepseek, sparse=after_first),
}
