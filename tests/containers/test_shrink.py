"""A shrunk model is small, of the real one's class, and every family of the offline registry can be shrunk."""

from __future__ import annotations

import warnings

import pytest

from cloudtune.models.registry import entries
from cloudtune.rendering.shrink import shrunk_config

# transformers 5.23 has no model class of these for AutoModelForCausalLM.
NOT_IN_TRANSFORMERS = {"mistral4"}
MOST_WEIGHTS = 2_500_000
WORDS = 1000


def families() -> dict[str, dict[str, object]]:
    """One registry config per model type."""
    return {str(entry.config["model_type"]): dict(entry.config) for entry in reversed(entries())}


def test_widths_layers_and_experts_become_small():
    for config in families().values():
        small = shrunk_config(config)
        assert small["model_type"] == config["model_type"]
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers"):
            assert key not in small or int(small[key]) <= 128
        assert int(small.get("num_key_value_heads") or 1) <= 4


@pytest.mark.parametrize(("shared", "few"), [(32, 4), (8, 1), (16, 2), (1, 1)])
def test_heads_are_grouped_as_the_model_groups_them(shared: int, few: int):
    """Another kind of attention would be another path of code than the one that is rehearsed."""
    small = shrunk_config({"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": shared})
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (4, few)


def test_text_part_of_a_multimodal_config_is_taken():
    small = shrunk_config({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}, "vision_config": {}})
    assert small == {"model_type": "gemma3_text", "hidden_size": 64}


@pytest.mark.stack
@pytest.mark.parametrize("model_type", sorted(families()))
def test_transformers_builds_every_family_small_and_it_learns(model_type: str):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    if model_type in NOT_IN_TRANSFORMERS:
        with pytest.raises(ValueError, match="Unrecognized configuration"):
            AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type))
        return
    values = {**shrunk_config(families()[model_type]), "vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    if hasattr(config, "vocab_size_per_layer_input"):
        config.vocab_size_per_layer_input = WORDS
    kind = AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModelForMaskedLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind.from_config(config)
    ids = torch.arange(3, 43).view(2, 20)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert sum(weight.numel() for weight in model.parameters()) < MOST_WEIGHTS
