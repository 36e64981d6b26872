"""The loss is the same number however a step is cut up, and its gradient reaches every adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_jobs import INT8, LORA, NF4, job_file

from cloudtune.errors import JobFailed
from cloudtune_trainer.batches import Hiding, causal_batch, masked_batch, micro_batches
from cloudtune_trainer.evaluation import eval_batches, mean_loss
from cloudtune_trainer.fourbit import as_served, keep_trainable
from cloudtune_trainer.learner import learn, make_learner, make_loss, seed_everything
from cloudtune_trainer.loss import CHUNK, TokenLoss, check_chunked, chunked_loss, full_loss, next_tokens
from cloudtune_trainer.model import Base, load_base, make_trainable
from cloudtune_trainer.surroundings import StopSign
from cloudtune_trainer.tokens import IGNORED, Sequence
from cloudtune_trainer.workers import Workers

pytestmark = pytest.mark.stack
CPU = torch.device("cpu")
ALONE = Workers(0, 1, CPU)


def rows(count: int, *, longest: int = 40, words: int = 300) -> list[Sequence]:
    random = np.random.default_rng(3)
    made = []
    for number in range(count):
        ids = random.integers(10, words, 6 + (number * 7) % longest).astype(np.int32)
        labels = ids.copy()
        labels[: 1 + number % 5] = IGNORED
        made.append(Sequence(ids, labels, number))
    return made


def adapted(base: Path, job: Any) -> Any:
    model = load_base(job, Base(str(base), None), CPU)
    seed_everything(1, 0, 0)
    model = make_trainable(job, model, Base(str(base), None))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide errors in lora_A's gradient
            torch.nn.init.normal_(weight, std=0.02)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_accumulation_does_not_change_loss_or_gradient(base: Path, encoder: Path, task: str) -> None:
    found = []
    for micro in (16, 4, 1):
        job = job_file("text", task=task, micro=micro, training={"batch_size": 16})
        model = adapted(encoder if task == "masked_lm" else base, job)
        learner = make_learner(job, make_loss(job, model), ALONE)
        groups = sorted([(row,) for row in rows(16)], key=lambda group: -len(group[0].ids))
        hiding = Hiding(9, 300, (0, 1), 5)
        if task == "masked_lm":
            groups = [(hiding.apply(row, 1),) for (row,) in groups]
        make = masked_batch if task == "masked_lm" else causal_batch
        batches = [make(lines, 0, CPU) for lines in micro_batches(groups, micro, 0, 1)]
        kept: dict[str, torch.Tensor] = {}
        learner.optimizer.register_step_pre_hook(lambda *_, model=model, kept=kept: kept.update(gradients(model)))
        step = learn(learner, batches, groups, 1e-3, 1e9)
        assert step.loss_sum / step.learned == pytest.approx(6, abs=0.6)  # not a multiple of it
        found.append((step.loss_sum, step.norm, kept))
    for loss_sum, norm, kept in found[1:]:
        assert loss_sum == pytest.approx(found[0][0], rel=1e-5)
        assert norm == pytest.approx(found[0][1], rel=1e-4)
        for name, gradient in kept.items():
            torch.testing.assert_close(gradient, found[0][2][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", [LORA, NF4, INT8, {"type": "full"}], ids=lambda method: method.get("quantization", method["type"]))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunked_loss_and_gradient_are_those_of_the_full_loss(base: Path, method: dict[str, Any], checkpointing: bool) -> None:
    job = job_file(method=method, training={"gradient_checkpointing": checkpointing})
    model = adapted(base, job)
    many = rows(64) * 1
    batch = causal_batch([(row,) for row in many], 0, CPU)
    assert int((batch.labels != IGNORED).sum()) > CHUNK  # more than one chunk
    results = []
    for chunked in (False, True):
        model.train()
        model.zero_grad()
        loss = TokenLoss(model, causal=True, chunked=chunked)(batch)
        loss.backward()
        results.append((float(loss), gradients(model)))
    (full, full_gradients), (chunked_sum, chunked_gradients) = results
    assert chunked_sum == pytest.approx(full, rel=1e-5)
    assert full_gradients.keys() == chunked_gradients.keys()
    for name, gradient in full_gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()) + 1e-6)


def test_chunked_loss_of_a_batch_without_learned_tokens_is_zero_and_has_a_gradient(base: Path) -> None:
    model = adapted(base, job_file())
    row = rows(1)[0]
    batch = causal_batch([(Sequence(row.ids, np.full_like(row.labels, IGNORED), 0),)], 0, CPU)
    loss = TokenLoss(model, causal=True, chunked=True)(batch)
    loss.backward()
    assert float(loss) == 0.0


def test_chunks_are_of_learned_tokens_only(base: Path) -> None:
    model = adapted(base, job_file())
    batch = causal_batch([(row,) for row in rows(64)], 0, CPU)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    TokenLoss(model, causal=True, chunked=True)(batch)
    assert max(seen) == CHUNK
    assert sum(seen) == int((batch.labels != IGNORED).sum())


def test_capped_and_scaled_logits(base: Path) -> None:
    from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 300,
    }
    batch = causal_batch([(row,) for row in rows(4)], 0, CPU)
    targets = next_tokens(batch.labels)
    for model in (
        Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=16, final_logit_softcapping=0.3, initializer_range=0.5)),
        GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=7.0)),
    ):
        model.eval()
        with torch.no_grad():
            full, chunked = float(full_loss(model, batch, targets)), float(chunked_loss(model, batch, targets))
        assert chunked == pytest.approx(full, rel=1e-5)

    class Odd(LlamaForCausalLM):
        def forward(self, **inputs: Any) -> Any:
            output = super().forward(**inputs)
            output.logits = output.logits * 3
            return output

    odd = Odd(AutoModelForCausalLM.from_pretrained(base).config)
    with pytest.raises(JobFailed, match="does not fit llama"):
        check_chunked(odd, batch)


def test_evaluation_does_not_depend_on_the_batch_size(base: Path) -> None:
    model = TokenLoss(load_base(job_file(), Base(str(base), None), CPU), causal=True, chunked=False)
    losses = [mean_loss(model, eval_batches(tuple(rows(20)), size), 0, ALONE, torch.no_grad(), StopSign()) for size in (1, 7, 20)]
    assert max(losses) - min(losses) < 1e-6
    for training in (True, False):  # an evaluation between two steps turns no dropout off for those that follow
        mean_loss(model.train(training), eval_batches(tuple(rows(2)), 2), 0, ALONE, torch.no_grad(), StopSign())
        assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("method", [NF4, {**NF4, "quantization": "fp4", "double_quant": False}], ids=["nf4", "fp4"])
def test_gradients_of_a_4_bit_base_are_those_of_its_dequantised_twin_also_after_an_evaluation(base: Path, method: dict[str, Any]) -> None:
    job = job_file(method=method)
    batch = causal_batch([(row,) for row in rows(8)], 0, CPU)
    quantised = adapted(base, job)
    before = {name: weight.clone() for name, weight in quantised.state_dict().items()}
    mean_loss(TokenLoss(quantised, causal=True, chunked=False), [rows(4)], 0, ALONE, torch.no_grad(), StopSign())
    for name, weight in quantised.state_dict().items():
        assert torch.equal(weight, before[name]), name
    twin = make_trainable(job_file(), load_base(job, Base(str(base), None), CPU).dequantize(dtype=torch.float32), Base(str(base), None))
    twin.load_state_dict({name: weight for name, weight in quantised.state_dict().items() if "lora_" in name}, strict=False)
    for model in (quantised, twin):
        model.train()
        TokenLoss(model, causal=True, chunked=False)(batch).backward()
    theirs = gradients(twin)
    for name, gradient in gradients(quantised).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-4 * float(theirs[name].abs().max()))


def test_repacking_is_off_outside_evaluations(base: Path) -> None:
    model = load_base(job_file(method=NF4), Base(str(base), None), CPU)
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    with as_served(model):
        pass
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    keep_trainable(model)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(base: Path) -> None:
    job = job_file()
    model = adapted(base, job)
    learner = make_learner(job, make_loss(job, model), ALONE)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_A" in name).fill_(float("nan"))
    kept = {name: weight.clone() for name, weight in model.named_parameters() if "lora_B" in name}
    groups = [(row,) for row in rows(2)]
    with pytest.raises(JobFailed, match="not a finite number"):
        learn(learner, [causal_batch(groups, 0, CPU)], groups, 1e-3, 1.0)
    for name, weight in model.named_parameters():
        assert name not in kept or torch.equal(weight, kept[name])


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is(base: Path) -> None:
    """Clipping would make every weight of the model a NaN of it."""
    job = job_file()
    model = adapted(base, job)
    next(weight for name, weight in model.named_parameters() if "lora_B" in name).register_hook(lambda grad: grad * float("inf"))
    kept = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    groups = [(row,) for row in rows(2)]
    with pytest.raises(JobFailed, match="the gradient is not a finite number"):
        learn(make_learner(job, make_loss(job, model), ALONE), [causal_batch(groups, 0, CPU)], groups, 1e-3, 1.0)
    assert all(torch.equal(weight, kept[name]) for name, weight in model.named_parameters() if name in kept)


def test_a_gradient_of_zero_is_not_taken_for_learning(base: Path) -> None:
    job = job_file()
    model = adapted(base, job)
    with torch.no_grad():  # adapters that are zero on both sides never move
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.zero_()
    groups = [(row,) for row in rows(2)]
    with pytest.raises(JobFailed, match="no gradient"):
        learn(make_learner(job, make_loss(job, model), ALONE), [causal_batch(groups, 0, CPU)], groups, 1e-3, 1.0)
