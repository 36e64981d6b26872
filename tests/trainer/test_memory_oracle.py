"""The templates against the oracle: the real model, peft and loss code traced under FakeTensorMode.

Allocated peaks must be equal within 0.1 % for a seeded sample of family x method x checkpointing x precision; the whole
grid runs under the marker ``full``. Dropout is off (its mask differs between CPU and CUDA).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.program import Job, tape_of
from cloudtune.models.families import shape_of
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod
from tests.trainer.live_peak import live_peak

pytestmark = pytest.mark.stack

SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
BERT_LIKE = {"intermediate_size": 2048, "n_layers": 7, "dim": 512, "hidden_dim": 2048, "n_heads": 8, **NO_DROPOUT}
MODERN = {"intermediate_size": 768}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "smollm3": {},
    "olmo2": {},
    "gemma2": {"head_dim": 64, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 64, "tie_word_embeddings": True},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": BERT_LIKE,
    "roberta": BERT_LIKE,
    "distilbert": BERT_LIKE,
    "modernbert": MODERN,
    "eurobert": {},
}
METHODS: dict[str, FullMethod | LoraMethod | QloraMethod] = {
    "full": FullMethod(type="full"),
    "lora": LoraMethod(type="lora", r=8),
    "lora-qv": LoraMethod(type="lora", r=4, target_modules=("q_proj", "v_proj")),
    "nf4": QloraMethod(type="qlora", r=8),
    "nf4-plain": QloraMethod(type="qlora", r=8, double_quant=False),
}
EXTRAS: dict[str, LoraMethod | QloraMethod] = {
    "lora-saves-ends": LoraMethod(type="lora", r=8, modules_to_save=("embed_tokens", "lm_head")),
    "lora-saves-head": LoraMethod(type="lora", r=8, modules_to_save=("lm_head",)),
    "nf4-saves-ends": QloraMethod(type="qlora", r=8, modules_to_save=("embed_tokens", "lm_head")),
    "lora-new-tokens": LoraMethod(type="lora", r=8, trainable_tokens=tuple(range(40))),
    "nf4-new-tokens": QloraMethod(type="qlora", r=8, trainable_tokens=tuple(range(40))),
}
EAGER_ONLY = {"gemma2"}
TOLERANCE = 0.001


@dataclass(frozen=True)
class Case:
    family: str
    method: str
    checkpointing: bool
    autocast: bool
    attention: str

    def __str__(self) -> str:
        kept, word = "ckpt" if self.checkpointing else "all", "bf16" if self.autocast else "fp32"
        return f"{self.family}-{self.method}-{kept}-{word}-{self.attention}"


def grid() -> list[Case]:
    cases = []
    for family, method, checkpointing, autocast, attention in product(
        [*DECODERS, *ENCODERS], METHODS, (True, False), (True, False), ("sdpa", "eager")
    ):
        encoder = family in ENCODERS
        if (family in EAGER_ONLY and attention == "sdpa") or (encoder and method not in {"full", "lora"}):
            continue
        cases.append(Case(family, method, checkpointing, autocast, attention))
    return cases


SAMPLE = random.Random(20260923).sample(grid(), 12)


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_sample(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("name", "checkpointing"), [("lora-saves-ends", True), ("nf4-new-tokens", False)])
def test_modules_that_are_saved_and_new_tokens(name: str, *, checkpointing: bool) -> None:
    check(Case("llama", name, checkpointing, autocast=True, attention="sdpa"))


def extra_grid() -> list[Case]:
    every = product(("llama", "qwen3"), EXTRAS, (True, False), (True, False))
    return [Case(family, name, checkpointing, autocast, "sdpa") for family, name, checkpointing, autocast in every]


@pytest.mark.full
@pytest.mark.parametrize("case", extra_grid(), ids=str)
def test_every_saved_module_and_new_token(case: Case) -> None:
    check(case)


@pytest.mark.full
@pytest.mark.parametrize("case", grid(), ids=str)
def test_grid(case: Case) -> None:
    check(case)


def check(case: Case) -> None:
    traced, reckoned = traced_peak(case), reckoned_peak(case)
    assert reckoned == pytest.approx(traced, rel=TOLERANCE), f"{case}: traced {traced:,}, reckoned {reckoned:,}"


def config_of(case: Case) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.for_model(case.family, **{**SMALL, **(DECODERS | ENCODERS)[case.family]})
    config._attn_implementation = case.attention
    config.use_cache = False
    return config


def reckoned_peak(case: Case) -> int:
    """The peak of the tape that cloudtune writes for ``case``."""
    shape = shape_of({**config_of(case).to_dict(), "model_type": case.family}, source="oracle")
    encoder = case.family in ENCODERS
    behaviour = Behaviour(
        attention=case.attention,  # type: ignore[arg-type]
        compute_word=2 if case.autocast else 4,
        autocast=case.autocast,
        checkpointing=case.checkpointing,
        padding_mask=encoder,
        clip_gradients=False,
        loading="host",
    )
    task = "masked_lm" if encoder else "causal_lm"
    tape = tape_of(Job(shape, (METHODS | EXTRAS)[case.method], behaviour, 2, 256, (0, 0), traced=True, task=task))
    return live_peak(tape)


def traced_peak(case: Case) -> int:
    import torch

    from tests.trainer import memory_oracle

    method = (METHODS | EXTRAS)[case.method]
    word = torch.bfloat16 if case.autocast else torch.float32

    def finish(model: torch.nn.Module) -> None:
        memory_oracle.materialise(model, None if isinstance(method, FullMethod) else word)
        if isinstance(method, QloraMethod):
            memory_oracle.pack(model, nested=method.double_quant, word=word)

    return memory_oracle.trace(
        builder(case, method, word),
        stepper(case),
        finish=finish,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, fused=True),
        autocast=case.autocast,
    ).peak


def builder(case: Case, method: FullMethod | LoraMethod | QloraMethod, word: Any) -> Callable[[], Any]:
    """The model as the trainer makes it: quantised layers, adapters, checkpointing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForMaskedLM if case.family in ENCODERS else AutoModelForCausalLM

    def build() -> Any:
        model = kind.from_config(config_of(case), attn_implementation=case.attention)
        if isinstance(method, QloraMethod):
            quantise(model, method, word)
        if isinstance(method, LoraMethod):
            model.requires_grad_(False)
            targets = method.target_modules if isinstance(method.target_modules, str) else list(method.target_modules)
            saved, rows = list(method.modules_to_save) or None, list(method.trainable_tokens) or None
            settings = LoraConfig(r=method.r, target_modules=targets, modules_to_save=saved, trainable_token_indices=rows)
            model = get_peft_model(model, settings)
        if case.checkpointing:
            base = model.get_base_model() if isinstance(method, LoraMethod) else model
            base.activation_checkpointing_enable({"use_reentrant": False})
        return model

    return build


def quantise(model: Any, method: QloraMethod, word: Any) -> None:
    import bitsandbytes as bnb
    import torch

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            replaced = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=word,
                compress_statistics=method.double_quant,
                quant_type="nf4",
            )
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, replaced)
    model.is_loaded_in_4bit = True


def stepper(case: Case) -> Callable[[Any], Any]:
    """One forward pass through the trainer's own loss."""
    import torch

    from cloudtune_trainer.batches import Batch
    from cloudtune_trainer.loss import TokenLoss

    encoder = case.family in ENCODERS

    def step(model: Any) -> Any:
        ids, labels = torch.zeros((2, 256), dtype=torch.long), torch.zeros((2, 256), dtype=torch.long)
        seen = torch.ones((2, 256), dtype=torch.long) if encoder else None
        return TokenLoss(model, causal=not encoder, chunked=False)(Batch(ids, labels, None, seen))

    return step
