"""Encoders with a masked-language-model head: BERT, RoBERTa, DistilBERT, ModernBERT. Names follow transformers 5.23. Pure."""

from __future__ import annotations

from cloudtune.models.assemble import Layer, Outline, assemble, fold, hidden_size, layer_count
from cloudtune.models.feeds import activation
from cloudtune.models.fields import Fields
from cloudtune.models.mixers import window_of
from cloudtune.models.parts import Feed, Mixer, Tensors, embedding, linear, norm, parameter, positions
from cloudtune.models.shape import AttentionShape, MlpShape, ModelShape

_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


def bert(fields: Fields) -> ModelShape:
    """BertForMaskedLM."""
    hidden = hidden_size(fields)
    first = _bert_embeddings(fields, "bert.embeddings")
    words, places, types, scale = first
    head = _masked_head(fields, "cls.predictions", "transform.dense", "transform.LayerNorm", words[0].name)
    outline = _outline(fields, "BertForMaskedLM", (*words, *places, *types, *scale), head, "bert.encoder.layer")
    return assemble(fields, outline, fold((0,) * layer_count(fields), lambda _: _bert_layer(fields, hidden), "encoder"))


def roberta(fields: Fields) -> ModelShape:
    """RobertaForMaskedLM: BERT's layers, positions registered last, a head without a transform module."""
    hidden = hidden_size(fields)
    words, places, types, scale = _bert_embeddings(fields, "roberta.embeddings")
    head = _masked_head(fields, "lm_head", "dense", "layer_norm", words[0].name)
    outline = _outline(fields, "RobertaForMaskedLM", (*words, *types, *scale, *places), head, "roberta.encoder.layer")
    return assemble(fields, outline, fold((0,) * layer_count(fields), lambda _: _bert_layer(fields, hidden), "encoder"))


def distilbert(fields: Fields) -> ModelShape:
    """DistilBertForMaskedLM: no token types, other names."""
    hidden, words = hidden_size(fields), fields.integer("vocab_size")
    base = "distilbert.embeddings"
    stem = (
        *embedding(f"{base}.word_embeddings", words, hidden),
        *positions(f"{base}.position_embeddings", fields.integer("max_position_embeddings"), hidden),
        *norm(f"{base}.LayerNorm", hidden, bias=True),
    )
    tied = stem[0].name if fields.flag("tie_word_embeddings") else None
    head = (
        *linear("vocab_transform", hidden, hidden, bias=True),
        *norm("vocab_layer_norm", hidden, bias=True),
        *linear("vocab_projector", words, hidden, bias=True, tied_to=tied),
    )
    outline = _outline(fields, "DistilBertForMaskedLM", stem, head, "distilbert.transformer.layer")
    return assemble(fields, outline, fold((0,) * layer_count(fields), lambda _: _distilbert_layer(fields, hidden), "encoder"))


def modernbert(fields: Fields) -> ModelShape:
    """ModernBertForMaskedLM: local and global layers in turn, no norm before the first attention."""
    hidden, words, count = hidden_size(fields), fields.integer("vocab_size"), layer_count(fields)
    shift = fields.flag("norm_bias")
    stem = (
        *embedding("model.embeddings.tok_embeddings", words, hidden),
        *norm("model.embeddings.norm", hidden, bias=shift),
    )
    tied = stem[0].name if fields.flag("tie_word_embeddings") else None
    head = (
        *norm("model.final_norm", hidden, bias=shift),
        *linear("head.dense", hidden, hidden, bias=fields.flag("classifier_bias")),
        *norm("head.norm", hidden, bias=shift),
        *linear("decoder", words, hidden, bias=fields.flag("decoder_bias"), tied_to=tied),
    )
    step = fields.maybe_integer("global_attn_every_n_layers") or 3
    written = fields.words("layer_types", count, _LAYER_TYPES)
    kinds = written or tuple("sliding_attention" if index % step else "full_attention" for index in range(count))
    keys = tuple((kind, index > 0) for index, kind in enumerate(kinds))
    outline = _outline(fields, "ModernBertForMaskedLM", stem, head, "model.layers")
    return assemble(fields, outline, fold(keys, lambda key: _modernbert_layer(fields, *key), "encoder"))


def _outline(fields: Fields, architecture: str, stem: Tensors, head: Tensors, layers_name: str) -> Outline:
    """What all encoders share: LayerNorm and dropouts."""
    return Outline(
        architecture,
        stem,
        head,
        layers_name,
        family="encoder",
        norm="layernorm",
        hidden_dropout=fields.number("hidden_dropout_prob", "dropout", "mlp_dropout") or 0.0,
        attention_dropout=fields.number("attention_probs_dropout_prob", "attention_dropout") or 0.0,
    )


def _bert_embeddings(fields: Fields, base: str) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    hidden = hidden_size(fields)
    return (
        embedding(f"{base}.word_embeddings", fields.integer("vocab_size"), hidden),
        positions(f"{base}.position_embeddings", fields.integer("max_position_embeddings"), hidden),
        embedding(f"{base}.token_type_embeddings", fields.integer("type_vocab_size"), hidden),
        norm(f"{base}.LayerNorm", hidden, bias=True),
    )


def _masked_head(fields: Fields, base: str, dense: str, scale: str, words: str) -> Tensors:
    """A transform, its norm, and the decoder whose weight and bias are shared when tied."""
    hidden, vocabulary = hidden_size(fields), fields.integer("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    return (
        *parameter(f"{base}.bias", vocabulary, kind="bias"),
        *linear(f"{base}.{dense}", hidden, hidden, bias=True),
        *norm(f"{base}.{scale}", hidden, bias=True),
        *linear(f"{base}.decoder", vocabulary, hidden, tied_to=words if tied else None),
        *parameter(f"{base}.decoder.bias", vocabulary, kind="bias", tied_to=f"{base}.bias" if tied else None),
    )


def _heads(fields: Fields, hidden: int) -> tuple[int, int]:
    """Heads and the width of one; the width must come out whole."""
    heads = fields.integer("num_attention_heads", "n_heads")
    if hidden % heads:
        raise fields.fault("num_attention_heads", f"{heads} does not divide hidden_size {hidden}")
    return heads, hidden // heads


def _bert_layer(fields: Fields, hidden: int) -> Layer:
    width = fields.integer("intermediate_size")
    heads, each = _heads(fields, hidden)
    mixer: Tensors = (
        *linear("attention.self.query", hidden, hidden, bias=True),
        *linear("attention.self.key", hidden, hidden, bias=True),
        *linear("attention.self.value", hidden, hidden, bias=True),
        *linear("attention.output.dense", hidden, hidden, bias=True),
        *norm("attention.output.LayerNorm", hidden, bias=True),
    )
    feed: Tensors = (
        *linear("intermediate.dense", width, hidden, bias=True),
        *linear("output.dense", hidden, width, bias=True),
        *norm("output.LayerNorm", hidden, bias=True),
    )
    shape = AttentionShape("softmax", heads, heads, each, each, bias=True)
    return Layer(Mixer(shape, mixer), Feed(MlpShape("plain", width, activation(fields)), feed), (*mixer, *feed))


def _distilbert_layer(fields: Fields, hidden: int) -> Layer:
    width = fields.integer("hidden_dim", "intermediate_size")
    heads, each = _heads(fields, hidden)
    mixer: Tensors = (
        *(tensor for name in ("q_lin", "k_lin", "v_lin", "out_lin") for tensor in linear(f"attention.{name}", hidden, hidden, bias=True)),
        *norm("sa_layer_norm", hidden, bias=True),
    )
    feed: Tensors = (
        *linear("ffn.lin1", width, hidden, bias=True),
        *linear("ffn.lin2", hidden, width, bias=True),
        *norm("output_layer_norm", hidden, bias=True),
    )
    shape = AttentionShape("softmax", heads, heads, each, each, bias=True)
    return Layer(Mixer(shape, mixer), Feed(MlpShape("plain", width, activation(fields)), feed), (*mixer, *feed))


def _modernbert_layer(fields: Fields, layer_type: str, normed: bool) -> Layer:
    hidden, width = hidden_size(fields), fields.integer("intermediate_size")
    heads, each = _heads(fields, hidden)
    shift, bias, feed_bias = fields.flag("norm_bias"), fields.flag("attention_bias"), fields.flag("mlp_bias")
    mixer: Tensors = (*linear("attn.Wqkv", 3 * hidden, hidden, bias=bias), *linear("attn.Wo", hidden, hidden, bias=bias))
    feed: Tensors = (*linear("mlp.Wi", 2 * width, hidden, bias=feed_bias), *linear("mlp.Wo", hidden, width, bias=feed_bias))
    local = fields.integer("local_attention") if layer_type == "sliding_attention" else window_of(fields, layer_type)
    shape = AttentionShape("softmax", heads, heads, each, each, window=local, bias=bias, fused=True)
    before = norm("attn_norm", hidden, bias=shift) if normed else ()
    tensors = (*before, *mixer, *norm("mlp_norm", hidden, bias=shift), *feed)
    return Layer(Mixer(shape, mixer), Feed(MlpShape("gated", width, activation(fields), fused=True), feed), tensors)
