"""Model shapes against the truth: what the installed transformers builds on the meta device, parameter by parameter."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.stack
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import CONFIG_MAPPING  # noqa: E402

from cloudtune.models.defaults import DEFAULTS  # noqa: E402
from cloudtune.models.families import BUILDERS, WRAPPERS, shape_of  # noqa: E402
from cloudtune.models.fields import Fields  # noqa: E402
from cloudtune.models.registry import Entry, entries  # noqa: E402
from cloudtune.models.shape import ModelShape  # noqa: E402
from cloudtune.recipe.quickstart import QUICKSTART_CONFIG  # noqa: E402

# What transformers 5.23 cannot build from the registry, with the reason. Empty: it builds every entry.
UNBUILDABLE: dict[str, str] = {}
# Not reachable through AutoModelForCausalLM / AutoModelForMaskedLM, only as a class: the reason.
CLASS_ONLY = {"mistral4": "AutoModelForCausalLM does not list it; Mistral4ForCausalLM exists and is built directly"}


def config_of(values: Mapping[str, Any]) -> Any:
    return CONFIG_MAPPING[values["model_type"]](**{key: value for key, value in values.items() if key != "model_type"})


def build(shape: ModelShape, config: Any) -> Any:
    """The model on the meta device, through the auto class where there is one, and of the class that the shape names."""
    auto = transformers.AutoModelForMaskedLM if shape.family == "encoder" else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = getattr(transformers, shape.architecture)(config) if shape.model_type in CLASS_ONLY else auto.from_config(config)
    assert type(model).__name__ == shape.architecture
    return model


def truth(model: Any) -> list[tuple[str, tuple[int, ...], str | None]]:
    """(name, shape, tied to) of every parameter, in transformers' order."""
    first: dict[int, str] = {}
    found = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.append((name, tuple(parameter.shape), first.get(id(parameter))))
        first.setdefault(id(parameter), name)
    return found


def agree(shape: ModelShape, model: Any) -> None:
    ours = [(name, tensor.shape, tensor.tied_to) for name, tensor in shape.modules()]
    theirs = truth(model)
    assert set(ours) == set(theirs)
    assert ours == theirs, "same tensors, another order"
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tied == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)
    assert dict(shape.modules())[shape.output_embedding].numel == model.get_output_embeddings().weight.numel()
    widths = {name: type(model.get_submodule(tensor_owner(name))) for name, tensor in shape.modules() if tensor.kind == "linear"}
    assert all(issubclass(kind, torch.nn.Linear) for kind in widths.values()), "kind linear means nn.Linear"
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {tensor_owner(name) for name in widths} == linears
    norms = [tensor_owner(name) for name, tensor in shape.modules() if tensor.kind == "norm"]
    assert all("norm" in type(model.get_submodule(name)).__name__.lower() for name in norms)
    assert shape.norm == ("layernorm" if isinstance(model.get_submodule(norms[-1]), torch.nn.LayerNorm) else "rmsnorm")


def tensor_owner(name: str) -> str:
    return name.rpartition(".")[0]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_registry_entry(entry: Entry) -> None:
    if entry.id in UNBUILDABLE:
        pytest.skip(UNBUILDABLE[entry.id])
    shape = shape_of(entry.config, source=entry.id)
    agree(shape, build(shape, config_of(entry.config)))
    assert entry.parameters == shape.parameters


def test_every_entry_and_type_is_visited() -> None:
    assert len(entries()) == 84
    assert {entry.id for entry in entries()} >= set(UNBUILDABLE)
    assert {entry.config["model_type"] for entry in entries()} == set(BUILDERS)
    assert len(BUILDERS) == 29
    listed = transformers.AutoModelForCausalLM._model_mapping
    for model_type in CLASS_ONLY:
        assert CONFIG_MAPPING[model_type] not in listed, f"{model_type} is listed now: take it out of CLASS_ONLY"


def test_the_quickstart_model() -> None:
    shape = shape_of(QUICKSTART_CONFIG, source="quickstart")
    agree(shape, build(shape, config_of(QUICKSTART_CONFIG)))


# Options that no registry entry uses. Sizes are small; every case must also differ from the family's plain model.
SMALL = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 128, "intermediate_size": 96}
GROUPED = SMALL | {"num_key_value_heads": 2}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
COMPRESSED = {key: value for key, value in GROUPED.items() if key != "intermediate_size"}  # DeepSeek V4 has no dense MLP
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama with all biases": GROUPED | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama with wide heads, tied": GROUPED | {"model_type": "llama", "head_dim": 48, "tie_word_embeddings": True},
    "llama without grouping": SMALL | {"model_type": "llama", "num_key_value_heads": None, "head_dim": None},
    "mistral ignores biases": GROUPED | {"model_type": "mistral", "sliding_window": None},
    "qwen2 with a window above": GROUPED
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, "tie_word_embeddings": True},
    "qwen3 with biases": GROUPED | {"model_type": "qwen3", "attention_bias": True},
    "smollm3 untied": GROUPED | {"model_type": "smollm3", "tie_word_embeddings": False, "mlp_bias": True, "pad_token_id": 0},
    "olmo2 grouped with biases": GROUPED | {"model_type": "olmo2", "attention_bias": True, "pad_token_id": 0},
    "phi3 grouped": GROUPED | {"model_type": "phi3", "pad_token_id": 0},
    "gemma2 untied": GROUPED | {"model_type": "gemma2", "tie_word_embeddings": False, "attention_bias": True, "head_dim": 32},
    "gemma3 another pattern": GROUPED | {"model_type": "gemma3_text", "sliding_window_pattern": 2, "head_dim": 32},
    "eurobert grouped and tied": GROUPED | {"model_type": "eurobert", "tie_word_embeddings": True, "pad_token_id": 0},
    "mixtral": GROUPED | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe with dense layers": GROUPED
    | EXPERTS
    | {"model_type": "qwen3_moe", "num_experts": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "head_dim": 16},
    "gpt_oss without biases": GROUPED
    | {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": False,
        "head_dim": 16,
        "pad_token_id": 0,
    },
    "llama4 in turn": GROUPED
    | {
        "model_type": "llama4_text",
        "num_local_experts": 4,
        "intermediate_size_mlp": 160,
        "interleave_moe_layer_step": 2,
        "head_dim": 16,
        "pad_token_id": 0,
    },
    "llama4 by list": GROUPED
    | {
        "model_type": "llama4_text",
        "num_local_experts": 4,
        "moe_layers": [0, 5],
        "head_dim": 16,
        "attention_bias": True,
        "pad_token_id": 0,
    },
    "qwen3_next with dense layers": GROUPED
    | EXPERTS
    | {"model_type": "qwen3_next", "num_experts": 4, "mlp_only_layers": [0], "shared_expert_intermediate_size": 48, "head_dim": 16},
    "qwen3_5 by list": GROUPED
    | {"model_type": "qwen3_5_text", "layer_types": ["full_attention", "linear_attention"] * 3, "linear_num_value_heads": 48},
    "deepseek_v2 with query rank and biases": GROUPED
    | EXPERTS
    | LATENT
    | {
        "model_type": "deepseek_v2",
        "q_lora_rank": 24,
        "attention_bias": True,
        "mlp_bias": True,
        "first_k_dense_replace": 2,
        "n_routed_experts": 4,
    },
    "deepseek_v3 without query rank": GROUPED
    | EXPERTS
    | LATENT
    | {"model_type": "deepseek_v3", "q_lora_rank": None, "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 6},
    "mistral4 dense below": GROUPED
    | EXPERTS
    | LATENT
    | {"model_type": "mistral4", "q_lora_rank": 24, "first_k_dense_replace": 3, "n_routed_experts": 4, "n_shared_experts": 3},
    "bert untied": SMALL | {"model_type": "bert", "tie_word_embeddings": False, "type_vocab_size": 3, "max_position_embeddings": 40},
    "roberta untied": SMALL | {"model_type": "roberta", "tie_word_embeddings": False, "type_vocab_size": 1},
    "distilbert untied": {"model_type": "distilbert", "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96, "vocab_size": 128}
    | {"tie_word_embeddings": False},
    "modernbert with biases": SMALL
    | {
        "model_type": "modernbert",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "classifier_bias": True,
        "decoder_bias": False,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
    },
    "phi with normed heads, grouped and tied": GROUPED | {"model_type": "phi", "qk_layernorm": True, "tie_word_embeddings": False},
    "falcon in the newer form": SMALL
    | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "ffn_hidden_size": 96},
    "falcon one after the other": SMALL
    | {"model_type": "falcon", "parallel_attn": False, "multi_query": False, "tie_word_embeddings": False, "ffn_hidden_size": None},
    "gemma4 with shared layers": GROUPED
    | {"model_type": "gemma4_text", "num_kv_shared_layers": 3, "use_double_wide_mlp": True, "head_dim": 16, "global_head_dim": 32}
    | {"layer_types": ["sliding_attention", "full_attention"] * 3, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 100},
    "gemma4 with experts": GROUPED
    | {"model_type": "gemma4_text", "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "head_dim": 16, "hidden_size_per_layer_input": 0, "attention_bias": True},
    "gemma4 last layer forced": GROUPED | {"model_type": "gemma4_text", "layer_types": ["full_attention"] + ["sliding_attention"] * 5},
    "deepseek_v4 by list": COMPRESSED
    | EXPERTS
    | {"model_type": "deepseek_v4", "num_key_value_heads": 1, "head_dim": 32, "q_lora_rank": 24, "o_groups": 2, "o_lora_rank": 16}
    | {"index_n_heads": 4, "index_head_dim": 16, "n_routed_experts": 4, "hc_mult": 2}
    | {"layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"] * 2},
    "deepseek_v4 by ratios": COMPRESSED
    | EXPERTS
    | {"model_type": "deepseek_v4", "num_key_value_heads": 1, "head_dim": 32, "q_lora_rank": 24, "o_groups": 2, "o_lora_rank": 16}
    | {"index_n_heads": 4, "index_head_dim": 16, "n_routed_experts": 4, "compress_ratios": [0, 4, 128, 4, 0, 128], "compress_rate_csa": 8},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str) -> None:
    values = VARIANTS[name]
    shape = shape_of(values, source=name)
    agree(shape, build(shape, config_of(values)))


def test_every_type_has_a_variant() -> None:
    covered = {values["model_type"] for values in VARIANTS.values()}
    assert set(BUILDERS) - covered == {"ministral3", "qwen3_5_moe_text"}, "these two share every line with mistral and qwen3_next"


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_text_part_of_a_multimodal_config(wrapper: str) -> None:
    """As the hub stores it: what equals the class default of the nested config is left out."""
    stored = CONFIG_MAPPING[wrapper]().to_diff_dict()
    stored["text_config"] = {
        key: value for key, value in stored.get("text_config", {}).items() if key in ("model_type", "hidden_size", "num_hidden_layers")
    }
    whole = CONFIG_MAPPING[wrapper](**{key: value for key, value in stored.items() if key != "model_type"})
    shape = shape_of(stored | {"model_type": wrapper}, source=wrapper)
    text = whole.get_text_config()
    text.tie_word_embeddings = shape.tied  # which of the two configs decides is a rule of ours: tests/unit/test_models_shape.py
    agree(shape, build(shape, text))
    assert wrapper in shape.source


class _Reading(dict[str, Any]):
    """A config that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


@pytest.mark.parametrize("model_type", BUILDERS)
def test_class_defaults(model_type: str) -> None:
    """The table of defaults is complete for what the builders read, and right."""
    theirs = {
        item.name: item.default if item.default is not dataclasses.MISSING else None
        for item in dataclasses.fields(CONFIG_MAPPING[model_type])
    }
    wrong = {key: (value, theirs.get(key)) for key, value in DEFAULTS[model_type].items() if theirs.get(key) != value}
    assert not wrong
    reading = _Reading({"model_type": model_type} | ({"num_experts_per_tok": 2} if model_type == "deepseek_v2" else {}))
    BUILDERS[model_type](Fields(reading, DEFAULTS[model_type], where="", essential=frozenset()))
    assert len(reading.asked) > 5
    missing = {key: theirs[key] for key in reading.asked & theirs.keys() if theirs[key] and key not in DEFAULTS[model_type]}
    assert not missing


def tiny(model_type: str) -> dict[str, Any]:
    return next(values for values in VARIANTS.values() if values["model_type"] == model_type)


@pytest.fixture(params=[name for name in BUILDERS if name not in ("ministral3", "qwen3_5_moe_text")])
def tiny_model(request: pytest.FixtureRequest) -> tuple[ModelShape, Any]:
    values = tiny(request.param)
    shape = shape_of(values, source=request.param)
    return shape, build(shape, config_of(values))


def test_what_bitsandbytes_replaces(tiny_model: tuple[ModelShape, Any]) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    integration = importlib.import_module("transformers.integrations.bitsandbytes")
    base = importlib.import_module("transformers.quantizers.base")
    shape, model = tiny_model
    exempt = [*base.get_keys_to_not_convert(model), *(getattr(model, "_keep_in_fp32_modules", None) or [])]
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    replaced = integration.replace_with_bnb_linear(model, modules_to_not_convert=exempt, quantization_config=config)
    theirs = [name for name, module in replaced.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert sorted(name for name, _ in shape.quantised_modules()) == sorted(theirs)
    assert bool(theirs) == (shape.model_type != "falcon"), "falcon's linear layers are a subclass: nothing of it can be quantised"


# peft 0.21 turns all-linear into experts and routers (and away from shared experts) for types that transformers 4 stored
# expert by expert; a job must name its modules there. docs/models.md tells the story.
REWRITTEN_BY_PEFT = {"mixtral", "qwen3_moe", "qwen3_next", "deepseek_v2", "deepseek_v3"}


def test_what_all_linear_targets(tiny_model: tuple[ModelShape, Any]) -> None:
    peft = pytest.importorskip("peft")
    shape, model = tiny_model
    expected = sorted(name for name, _ in shape.linear_modules())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    theirs = [
        name.removeprefix("base_model.model.").removesuffix(".lora_A") for name, _ in wrapped.named_modules() if name.endswith(".lora_A")
    ]
    assert (expected == sorted(theirs)) == (shape.model_type not in REWRITTEN_BY_PEFT)
