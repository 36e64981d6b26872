"""Families that differ from Llama in more than a detail: Phi, Falcon, Gemma 4, DeepSeek V4. Names follow transformers 5.23. Pure."""

from __future__ import annotations

from dataclasses import replace

from cloudtune.models import feeds
from cloudtune.models.assemble import Layer, Outline, assemble, fold, hidden_size, layer_count
from cloudtune.models.decoders import EMBEDDING, FULL, SLIDING, vocabulary
from cloudtune.models.feeds import activation
from cloudtune.models.fields import Fields
from cloudtune.models.mixers import key_heads, window_of
from cloudtune.models.parts import Feed, Mixer, Tensors, embedding, experts, gated, linear, norm, parameter
from cloudtune.models.shape import AttentionShape, MlpShape, ModelShape, Tensor

HEAVY, SPARSE = "heavily_compressed_attention", "compressed_sparse_attention"
_RATIOS = {0: SLIDING, 4: SPARSE, 128: HEAVY}


def phi(fields: Fields) -> ModelShape:
    """PhiForCausalLM: one LayerNorm feeds attention and MLP side by side; biases everywhere."""
    hidden = hidden_size(fields)
    stem = embedding(EMBEDDING, fields.integer("vocab_size"), hidden)
    head = (*norm("model.final_layernorm", hidden, bias=True), *vocabulary(fields, bias=True))
    outline = Outline(
        "PhiForCausalLM",
        stem,
        head,
        norm="layernorm",
        parallel=True,
        hidden_dropout=fields.number("resid_pdrop") or 0.0,
        attention_dropout=fields.number("attention_dropout") or 0.0,
    )
    return assemble(fields, outline, fold((0,) * layer_count(fields), lambda _: _phi_layer(fields, hidden), "decoder"))


def _phi_layer(fields: Fields, hidden: int) -> Layer:
    heads, width = fields.integer("num_attention_heads"), fields.integer("intermediate_size")
    groups, each = key_heads(fields, heads), _whole_head(fields, hidden, heads)
    normed = fields.flag("qk_layernorm")
    mixer: Tensors = (
        *linear("self_attn.q_proj", heads * each, hidden, bias=True),
        *linear("self_attn.k_proj", groups * each, hidden, bias=True),
        *linear("self_attn.v_proj", groups * each, hidden, bias=True),
        *linear("self_attn.dense", hidden, heads * each, bias=True),
    )
    if normed:
        mixer += (*norm("self_attn.q_layernorm", each, bias=True), *norm("self_attn.k_layernorm", each, bias=True))
    feed: Tensors = (*linear("mlp.fc1", width, hidden, bias=True), *linear("mlp.fc2", hidden, width, bias=True))
    shape = AttentionShape("softmax", heads, groups, each, each, bias=True, qk_norm=normed)
    tensors = (*mixer, *feed, *norm("input_layernorm", hidden, bias=True))
    return Layer(Mixer(shape, mixer), Feed(MlpShape("plain", width, activation(fields)), feed), tensors)


def falcon(fields: Fields) -> ModelShape:
    """FalconForCausalLM: fused q, k, v; attention and MLP side by side; a subclass of nn.Linear throughout."""
    hidden, words = hidden_size(fields), fields.integer("vocab_size")
    stem = embedding("transformer.word_embeddings", words, hidden)
    tied = stem[0].name if fields.flag("tie_word_embeddings") else None
    head = (*norm("transformer.ln_f", hidden, bias=True), *linear("lm_head", words, hidden, tied_to=tied))
    outline = Outline(
        "FalconForCausalLM",
        stem,
        head,
        "transformer.h",
        norm="layernorm",
        parallel=fields.flag("parallel_attn"),
        hidden_dropout=fields.number("hidden_dropout") or 0.0,
        attention_dropout=fields.number("attention_dropout") or 0.0,
    )
    return assemble(fields, outline, fold((0,) * layer_count(fields), lambda _: _falcon_layer(fields, hidden), "decoder"))


def _falcon_layer(fields: Fields, hidden: int) -> Layer:
    heads = fields.integer("num_attention_heads", "n_head")
    each, bias = _whole_head(fields, hidden, heads), fields.flag("bias")
    groups = _falcon_key_heads(fields, heads)
    width = fields.maybe_integer("ffn_hidden_size") or 4 * hidden
    mixer: Tensors = (
        *linear("self_attention.query_key_value", (heads + 2 * groups) * each, hidden, bias=bias, plain=False),
        *linear("self_attention.dense", hidden, hidden, bias=bias, plain=False),
    )
    feed: Tensors = (
        *linear("mlp.dense_h_to_4h", width, hidden, bias=bias, plain=False),
        *linear("mlp.dense_4h_to_h", hidden, width, bias=bias, plain=False),
    )
    shape = AttentionShape("softmax", heads, groups, each, each, bias=bias, fused=True)
    norms = tuple(tensor for name in _falcon_norms(fields) for tensor in norm(name, hidden, bias=True))
    return Layer(Mixer(shape, mixer), Feed(MlpShape("plain", width, activation(fields)), feed), (*mixer, *feed, *norms))


def _falcon_key_heads(fields: Fields, heads: int) -> int:
    if fields.flag("new_decoder_architecture"):
        return fields.maybe_integer("num_kv_heads", "n_head_kv") or heads
    return 1 if fields.flag("multi_query") else heads


def _falcon_norms(fields: Fields) -> tuple[str, ...]:
    if not fields.flag("parallel_attn"):
        return ("post_attention_layernorm", "input_layernorm")
    count = fields.maybe_integer("num_ln_in_parallel_attn") or (2 if fields.flag("new_decoder_architecture") else 1)
    return ("ln_attn", "ln_mlp") if count == 2 else ("input_layernorm",)


def _whole_head(fields: Fields, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise fields.fault("num_attention_heads", f"{heads} does not divide hidden_size {hidden}")
    return hidden // heads


def gemma4(fields: Fields) -> ModelShape:
    """Gemma4ForCausalLM: wider heads in global layers, upper layers that reuse keys and values, per-layer embeddings."""
    hidden, count = hidden_size(fields), layer_count(fields)
    extra = fields.maybe_integer("hidden_size_per_layer_input", least=0) or 0
    stem = embedding(EMBEDDING, fields.integer("vocab_size"), hidden)
    late: Tensors = ()
    if extra:
        late = (
            *embedding("model.embed_tokens_per_layer", fields.integer("vocab_size_per_layer_input"), count * extra),
            *linear("model.per_layer_model_projection", count * extra, hidden),
            *norm("model.per_layer_projection_norm", extra),
        )
    outline = Outline(
        "Gemma4ForCausalLM",
        (*stem, *late),
        (*norm("model.norm", hidden), *vocabulary(fields)),
        final_softcap=fields.number("final_logit_softcapping"),
        attention_dropout=fields.number("attention_dropout") or 0.0,
        registered_late=frozenset(tensor.name for tensor in late),
    )
    return assemble(fields, outline, fold(_gemma4_keys(fields, count), lambda key: _gemma4_layer(fields, extra, *key), "decoder"))


def _gemma4_keys(fields: Fields, count: int) -> tuple[tuple[str, bool], ...]:
    """(kind of layer, reuses keys and values) per layer. The last layer is always global."""
    written = fields.words("layer_types", count, frozenset({FULL, SLIDING}))
    kinds = list(written or (SLIDING if (index + 1) % 6 else FULL for index in range(count)))
    kinds[-1] = FULL
    shared = fields.maybe_integer("num_kv_shared_layers", least=0) or 0
    if shared and set(kinds[: max(0, count - shared)]) != set(kinds):
        raise fields.fault("num_kv_shared_layers", "a kind of layer that reuses keys and values has no layer that makes them")
    return tuple((kind, index >= count - shared) for index, kind in enumerate(kinds))


def _gemma4_layer(fields: Fields, extra: int, layer_type: str, reuses: bool) -> Layer:
    hidden = hidden_size(fields)
    mixer, feed = _gemma4_attention(fields, layer_type, reuses), _gemma4_feed(fields, double=reuses)
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    tensors: Tensors = (*mixer.tensors, *feed.tensors, *(tensor for name in names for tensor in norm(name, hidden)))
    if extra:
        tensors += (
            *linear("per_layer_input_gate", extra, hidden),
            *linear("per_layer_projection", hidden, extra),
            *norm("post_per_layer_input_norm", hidden),
        )
    if fields.flag("enable_moe_block"):
        feed, more = _gemma4_experts(fields, feed)
        tensors += more
    return Layer(mixer, feed, tensors)


def _gemma4_attention(fields: Fields, layer_type: str, reuses: bool) -> Mixer:
    hidden, heads = hidden_size(fields), fields.integer("num_attention_heads")
    whole = layer_type == FULL
    same = whole and fields.flag("attention_k_eq_v")  # values are the keys: no v_proj
    width = (fields.maybe_integer("global_head_dim") or 512) if whole else fields.integer("head_dim")
    groups = (fields.maybe_integer("num_global_key_value_heads") if same else None) or key_heads(fields, heads)
    if heads % groups:
        raise fields.fault("num_global_key_value_heads", f"{groups} does not divide num_attention_heads {heads}")
    bias = fields.flag("attention_bias")
    made: Tensors = ()
    if not reuses:
        made = (*norm("self_attn.k_norm", width), *linear("self_attn.k_proj", groups * width, hidden, bias=bias))
        made += () if same else linear("self_attn.v_proj", groups * width, hidden, bias=bias)
    tensors = (
        *linear("self_attn.q_proj", heads * width, hidden, bias=bias),
        *norm("self_attn.q_norm", width),
        *made,
        *linear("self_attn.o_proj", hidden, heads * width, bias=bias),
    )
    window = window_of(fields, layer_type)
    return Mixer(AttentionShape("softmax", heads, groups, width, width, window, qk_norm=True, bias=bias, shares_kv=reuses), tensors)


def _gemma4_feed(fields: Fields, *, double: bool) -> Feed:
    width = fields.integer("intermediate_size") * (2 if double and fields.flag("use_double_wide_mlp") else 1)
    return Feed(MlpShape("gated", width, activation(fields)), gated("mlp", hidden_size(fields), width))


def _gemma4_experts(fields: Fields, dense: Feed) -> tuple[Feed, Tensors]:
    """Experts beside the dense MLP, each with norms of its own."""
    hidden, count, width = hidden_size(fields), fields.integer("num_experts"), fields.integer("moe_intermediate_size")
    used = fields.integer("top_k_experts", most=count)
    more: Tensors = (
        *parameter("router.scale", hidden),
        *parameter("router.per_expert_scale", count),
        *linear("router.proj", count, hidden),
        *experts("experts", count, hidden, width),
        *norm("post_feedforward_layernorm_1", hidden),
        *norm("post_feedforward_layernorm_2", hidden),
        *norm("pre_feedforward_layernorm_2", hidden),
    )
    shape = replace(dense.shape, kind="moe", experts=count, experts_per_token=used, expert_width=width, fused=True)
    return Feed(shape, (*dense.tensors, *more)), more


def deepseek_v4(fields: Fields) -> ModelShape:
    """DeepseekV4ForCausalLM: one key-value head, compressed attention, several residual streams (hyper-connections)."""
    hidden, streams = hidden_size(fields), fields.integer("hc_mult")
    stem = embedding(EMBEDDING, fields.integer("vocab_size"), hidden)
    head = (
        *norm("model.norm", hidden),
        *parameter("model.hc_head.hc_fn", streams, streams * hidden),
        *parameter("model.hc_head.hc_base", streams),
        *parameter("model.hc_head.hc_scale", 1),
        *vocabulary(fields),
    )
    kinds = _v4_kinds(fields)
    outline = Outline("DeepseekV4ForCausalLM", stem, head, attention_dropout=fields.number("attention_dropout") or 0.0)
    return assemble(fields, outline, fold(kinds, lambda kind: _v4_layer(fields, kind, streams), "decoder"))


def _v4_kinds(fields: Fields) -> tuple[str, ...]:
    """Kind of attention per layer: as written, or from ``compress_ratios``, or two heavy ones and then in turn."""
    count = layer_count(fields)
    written = fields.raw("layer_types")
    if isinstance(written, (list, tuple)) and len(written) >= count:  # longer lists also cover the extra prediction layer
        known = frozenset({SLIDING, SPARSE, HEAVY})
        return tuple(fields.checked_word("layer_types", word, known) for word in written[:count])
    ratios = fields.integers("compress_ratios")
    if ratios is not None and len(ratios) >= count and set(ratios) <= set(_RATIOS):
        return tuple(_RATIOS[ratio] for ratio in ratios[:count])
    if written is not None or ratios is not None:
        raise fields.fault("layer_types" if written is not None else "compress_ratios", f"one entry per layer ({count}) is expected")
    return tuple(HEAVY if index < 2 or index % 2 == 0 else SPARSE for index in range(count))


def _v4_layer(fields: Fields, kind: str, streams: int) -> Layer:
    hidden = hidden_size(fields)
    mixer, feed = _v4_attention(fields, kind), feeds.deepseek_v4(fields)
    mixing = (2 + streams) * streams
    connections = tuple(
        tensor
        for name in ("attn_hc", "ffn_hc")
        for tensor in (
            *parameter(f"{name}.fn", mixing, streams * hidden),
            *parameter(f"{name}.base", mixing),
            *parameter(f"{name}.scale", 3),
        )
    )
    norms = (*norm("input_layernorm", hidden), *norm("post_attention_layernorm", hidden))
    return Layer(mixer, feed, (*mixer.tensors, *feed.tensors, *norms, *connections))


def _v4_attention(fields: Fields, kind: str) -> Mixer:
    hidden, heads, width = hidden_size(fields), fields.integer("num_attention_heads"), fields.integer("head_dim")
    q_rank, groups, o_rank = fields.integer("q_lora_rank"), fields.integer("o_groups"), fields.integer("o_lora_rank")
    if heads * width % groups:
        raise fields.fault("o_groups", f"{groups} does not divide heads x head_dim {heads * width}")
    tensors: Tensors = (
        *parameter("self_attn.sinks", heads),
        *linear("self_attn.q_a_proj", q_rank, hidden),
        *norm("self_attn.q_a_norm", q_rank),
        *linear("self_attn.q_b_proj", heads * width, q_rank),
        *linear("self_attn.kv_proj", width, hidden),
        *norm("self_attn.kv_norm", width),
        *linear("self_attn.o_a_proj", groups * o_rank, heads * width // groups, plain=False),
        *linear("self_attn.o_b_proj", hidden, groups * o_rank),
    )
    if kind == HEAVY:
        tensors += _compressor(fields, "self_attn.compressor", _rate(fields, HEAVY), width, width)
    elif kind == SPARSE:
        rate, narrow = _rate(fields, SPARSE), fields.integer("index_head_dim")
        scorers = fields.integer("index_n_heads")
        indexer = "self_attn.compressor.indexer"
        tensors += (
            *_compressor(fields, "self_attn.compressor", rate, 2 * width, width),
            *_compressor(fields, indexer, rate, 2 * narrow, narrow),
            *linear(f"{indexer}.q_b_proj", scorers * narrow, q_rank),
            *linear(f"{indexer}.scorer.weights_proj", scorers, hidden, plain=False),
        )
    shape = AttentionShape(
        "softmax", heads, 1, width, width, window=fields.maybe_integer("sliding_window"), qk_norm=True, sinks=True, q_rank=q_rank
    )
    return Mixer(shape, tensors)


def _rate(fields: Fields, kind: str) -> int:
    """How many tokens one compressed entry stands for."""
    legacy = fields.maybe_integer("compress_rate_hca" if kind == HEAVY else "compress_rate_csa")
    if legacy is not None:
        return legacy
    written = fields.mapping("compress_rates").get(kind, 128 if kind == HEAVY else 4)
    if isinstance(written, bool) or not isinstance(written, int) or not 1 <= written <= 2**20:
        raise fields.fault("compress_rates", f"{kind} must be a whole number of at least 1")
    return written


def _compressor(fields: Fields, prefix: str, rate: int, wide: int, narrow: int) -> tuple[Tensor, ...]:
    """Pools ``rate`` tokens into one entry. Every quantiser of transformers leaves its two projections alone."""
    hidden = hidden_size(fields)
    return (
        *parameter(f"{prefix}.position_bias", rate, wide),
        *linear(f"{prefix}.kv_proj", wide, hidden, plain=False),
        *linear(f"{prefix}.gate_proj", wide, hidden, plain=False),
        *norm(f"{prefix}.kv_norm", narrow),
    )
