"""Shapes from configs, without torch: counts, folding, names, ties, wrappers, and every kind of config that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtune.errors import CloudtuneError, SourceError
from cloudtune.models.families import BUILDERS, WRAPPERS, known_types, shape_of
from cloudtune.models.fields import MOST_LAYERS
from cloudtune.models.registry import entries
from cloudtune.models.shape import ModelShape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def shape(**changes: Any) -> ModelShape:
    return shape_of({key: value for key, value in (LLAMA | changes).items() if value is not ...}, source="test")


def test_every_registry_entry_counts_as_verified() -> None:
    visited = 0
    for entry in entries():
        assert shape_of(entry.config, source=entry.id).parameters == entry.parameters, entry.id
        visited += 1
    assert visited == 84


def test_published_counts() -> None:
    """Numbers from the publishers' papers and pages, independent of our own registry."""
    known = {entry.id: shape_of(entry.config, source=entry.id).parameters for entry in entries()}
    assert known["meta-llama/Llama-3.1-8B"] == 8_030_261_248
    assert known["microsoft/phi-2"] == 2_779_683_840
    assert known["deepseek-ai/DeepSeek-V3"] == 671_026_404_352
    assert known["openai/gpt-oss-120b"] == 116_829_156_672
    assert known["google-bert/bert-base-uncased"] == 109_514_298


def test_layers_are_folded_and_unfold_in_order() -> None:
    got = shape(model_type="gemma2", num_hidden_layers=5)
    assert [block.layers for block in got.blocks] == [(0, 2, 4), (1, 3)]
    assert [block.attention.window for block in got.blocks if block.attention] == [4096, None]
    layers = [int(name.split(".")[2]) for name, _ in got.modules() if name.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert set(layers) == set(range(5))
    assert got.block_of(3).layers == (1, 3)


def test_parameters_are_the_sum_of_what_modules_lists() -> None:
    for tied in (True, False):
        got = shape(tie_word_embeddings=tied)
        listed = sum(tensor.numel for _, tensor in got.modules() if tensor.tied_to is None)
        assert got.parameters == listed
        assert got.tied is tied
    assert shape(tie_word_embeddings=False).parameters - shape(tie_word_embeddings=True).parameters == 64 * 100


def test_linear_modules_leave_out_the_output_embedding() -> None:
    got = shape(tie_word_embeddings=False)
    names = [name for name, _ in got.linear_modules()]
    assert len(names) == 7 * 3
    assert "lm_head" not in names
    assert names[0] == "model.layers.0.self_attn.q_proj"
    assert list(got.quantised_modules()) == list(got.linear_modules())
    assert got.output_embedding == "lm_head.weight"


def test_values_are_frozen() -> None:
    got = shape()
    with pytest.raises(AttributeError):
        got.hidden_size = 1  # type: ignore[misc]
    assert got == shape()
    assert hash(got) == hash(shape())


def test_facts_for_the_reckoning() -> None:
    by_id = {entry.id: shape_of(entry.config, source=entry.id) for entry in entries()}
    oss = by_id["openai/gpt-oss-20b"].blocks[0]
    assert oss.attention is not None
    assert (oss.kind, oss.attention.sinks, oss.attention.window, oss.mlp.experts, oss.mlp.experts_per_token) == (
        "attention+moe",
        True,
        128,
        32,
        4,
    )
    hybrid = by_id["Qwen/Qwen3.5-4B"]
    assert [block.kind for block in hybrid.blocks] == ["linear_attention+mlp", "attention+mlp"]
    assert [block.count for block in hybrid.blocks] == [24, 8]
    latent = by_id["deepseek-ai/DeepSeek-V2-Lite"].blocks
    assert [(block.count, block.mlp.kind, block.mlp.shared_width) for block in latent] == [(1, "gated", 0), (26, "moe", 2816)]
    assert latent[0].attention is not None
    assert (latent[0].attention.kind, latent[0].attention.head_dim, latent[0].attention.v_head_dim) == ("mla", 192, 128)
    bert = by_id["google-bert/bert-base-uncased"]
    assert (bert.family, bert.norm, bert.hidden_dropout, bert.attention_dropout) == ("encoder", "layernorm", 0.1, 0.1)
    modern = by_id["answerdotai/ModernBERT-base"].blocks
    assert [block.count for block in modern] == [1, 14, 7]
    gemma = by_id["google/gemma-4-E2B"]
    assert sum(block.count for block in gemma.blocks if block.attention and block.attention.shares_kv) == 20
    assert by_id["microsoft/phi-2"].parallel
    assert all(item.max_positions and item.max_positions >= 512 for item in by_id.values())


def test_a_text_config_may_leave_out_class_defaults() -> None:
    got = shape_of(
        {"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240}}, source="hub"
    )
    assert got.parameters == 3_880_263_168
    assert (got.model_type, got.tied, got.source) == ("gemma3_text", True, "hub, text part of gemma3")


@pytest.mark.parametrize(
    ("inside", "outside", "tied"),
    [(None, None, False), (True, None, True), (None, True, True), (False, True, False), (True, False, True)],
)
def test_who_decides_the_tie_of_a_text_config(inside: bool | None, outside: bool | None, tied: bool) -> None:
    text = {"hidden_size": 64, "num_hidden_layers": 2} | ({} if inside is None else {"tie_word_embeddings": inside})
    whole = {"model_type": "qwen3_5", "text_config": text} | ({} if outside is None else {"tie_word_embeddings": outside})
    assert shape_of(whole, source="hub").tied is tied


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dtype", "bfloat16", "bfloat16"),
        ("torch_dtype", "torch.float16", "float16"),
        ("dtype", "float8_e4m3fn", None),
        ("dtype", None, None),
    ],
)
def test_stored_dtype(key: str, value: object, expected: str | None) -> None:
    assert shape(**{key: value}).dtype == expected


def test_a_written_null_is_not_the_default() -> None:
    assert shape(model_type="mistral").blocks[0].attention.window == 4096  # type: ignore[union-attr]
    assert shape(model_type="mistral", sliding_window=None).blocks[0].attention.window is None  # type: ignore[union-attr]
    assert shape(num_key_value_heads=None).blocks[0].attention.kv_heads == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"])
@pytest.mark.parametrize(
    "value",
    [..., None, "64", 64.0, True, 0, -1, [64], {}, 10**30, float("nan"), 2**31, "x" * 10_000],
    ids=["missing", "null", "text", "float", "bool", "zero", "negative", "list", "object", "huge", "nan", "2^31", "long text"],
)
def test_malformed_sizes_name_their_key(key: str, value: object) -> None:
    with pytest.raises(SourceError) as caught:
        shape(**{key: value})
    assert caught.value.what.startswith(f"{key}: ")
    assert caught.value.where == "test"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_hidden_layers": MOST_LAYERS + 1}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": 2, "head_dim": ...}, "num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"hidden_act": 7}, "hidden_act"),
        ({"dtype": 16}, "dtype"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"attention_dropout": float("inf")}, "attention_dropout"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": ["full_attention", "x", []]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": "full_attention"}, "layer_types"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": ["0"]}, "mlp_only_layers"),
        ({"model_type": "qwen3_5_text", "linear_num_value_heads": 3}, "linear_num_value_heads"),
        ({"model_type": "llama4_text", "no_rope_layers": [1]}, "no_rope_layers"),
        ({"model_type": "bert", "num_attention_heads": 5}, "num_attention_heads"),
        ({"model_type": "falcon", "num_attention_heads": 5}, "num_attention_heads"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 3}, "num_kv_shared_layers"),
        ({"model_type": "gemma4_text", "enable_moe_block": True}, "num_experts"),
        ({"model_type": "deepseek_v4", "layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"model_type": "deepseek_v4", "compress_ratios": [4, 5, 4]}, "compress_ratios"),
        ({"model_type": "deepseek_v4", "compress_rates": {"heavily_compressed_attention": "128"}}, "compress_rates"),
        ({"model_type": "deepseek_v4", "compress_rates": [128]}, "compress_rates"),
        ({"model_type": "deepseek_v4", "o_groups": 7}, "o_groups"),
    ],
)
def test_impossible_values_name_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SourceError, match=f"^(test: )?{key}: "):
        shape(**changes)


def test_unknown_types() -> None:
    with pytest.raises(SourceError) as caught:
        shape(model_type="mamba7")
    text = str(caught.value)
    assert all(word in text for word in ("mamba7", "llama", "qwen3_moe", "gemma3", "model.config", "--exact"))
    assert caught.value.code == "unknown-model-type"
    assert len(known_types()) == len(BUILDERS) + len(WRAPPERS) == 35


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": None},
        {"model_type": ["llama"]},
        {"model_type": "x" * 100_000},
        {"model_type": "llava", "text_config": {"model_type": "opt"}},
        {"model_type": "llava", "text_config": {"model_type": ["opt"]}},
        {"model_type": "gemma3", "text_config": 7},
        {"model_type": "gemma3", "text_config": {"model_type": None, "hidden_size": "x"}},
        [],
        None,
        "llama",
    ],
    ids=lambda config: str(config)[:40],
)
def test_configs_that_are_none(config: Any) -> None:
    with pytest.raises(SourceError) as caught:
        shape_of(config, source="test")
    assert len(str(caught.value)) < 900


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 9), st.sampled_from(["full_attention", "sliding_attention", "linear_attention"])), max_size=7),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=2),
)
KEYS = sorted(
    {key for entry in entries() for key in entry.config}
    | {"dtype", "layer_types", "moe_layers", "mlp_only_layers", "text_config", "compress_rates"}
)


@settings(max_examples=400, deadline=None)
@given(
    model_type=st.sampled_from(known_types()),
    base=st.sampled_from([entry.config for entry in entries()]),
    damage=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    dropped=st.sets(st.sampled_from(KEYS), max_size=3),
    own=st.booleans(),
)
def test_a_damaged_config_gives_a_shape_or_a_clear_error(
    model_type: str, base: dict[str, Any], damage: dict[str, Any], dropped: set[str], own: bool
) -> None:
    """Whatever is written there: a consistent shape, or a CloudtuneError of readable length."""
    config = {key: value for key, value in base.items() if key not in dropped} | damage
    if not own:
        config["model_type"] = model_type
    try:
        got = shape_of(config, source="test")
    except CloudtuneError as error:
        note = str(error)
    else:
        note = "a shape"
        check_consistent(got)
    assert 0 < len(note) < 1200


def check_consistent(got: ModelShape) -> None:
    assert got.parameters > 0
    assert sorted(layer for block in got.blocks for layer in block.layers) == list(range(got.num_layers))
    assert all(side >= 1 for tensor in (*got.stem, *got.head, *(t for block in got.blocks for t in block.tensors)) for side in tensor.shape)
    assert got.output_embedding


@settings(max_examples=200, deadline=None)
@given(st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from([*KEYS, "model_type"]), inner, max_size=5), max_leaves=12))
def test_any_json_gives_nothing_but_our_errors(config: Any) -> None:
    with pytest.raises(CloudtuneError):
        shape_of(config, source="test")


def test_absurd_sizes_stay_small_values() -> None:
    """A config of 4096 layers is reckoned without building 4096 layers."""
    got = shape(num_hidden_layers=MOST_LAYERS, hidden_size=2**20, intermediate_size=2**22, head_dim=2**18)
    assert len(got.blocks) == 1
    assert got.parameters > 10**15
    assert len(json.dumps([tensor.shape for tensor in got.blocks[0].tensors])) < 1000
