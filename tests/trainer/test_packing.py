"""Packed rows do not see each other, bins are full, and the order of rows is a function of the seed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_loss import rows
from trainer_jobs import job_file

from cloudtune.errors import JobFailed
from cloudtune_trainer.batches import Hiding, causal_batch, length, masked_batch, micro_batches, steps
from cloudtune_trainer.checks import check_length, check_packing
from cloudtune_trainer.loss import inputs_of
from cloudtune_trainer.model import Base, load_base
from cloudtune_trainer.packing import pack
from cloudtune_trainer.tokens import IGNORED, Sequence

pytestmark = pytest.mark.stack
CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 7))
def test_every_row_is_in_one_bin_and_no_bin_overflows(lengths: list[int], window: int) -> None:
    bins = pack(lengths, 50, window=window)
    assert sorted(index for group in bins for index in group) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in group) <= 50 for group in bins)


def test_bins_are_full() -> None:
    draw = random.Random(1)
    lengths = [min(2048, int(draw.lognormvariate(5.3, 0.8)) + 1) for _ in range(5000)]
    bins = pack(lengths, 2048)
    assert sum(lengths) / (2048 * len(bins)) > 0.985
    assert bins == pack(lengths, 2048)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_do_not_see_each_other(base: Path, attention: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=attention).eval()
    made = rows(5)
    packed = causal_batch([tuple(made[:3]), tuple(made[3:])], 0, CPU)
    with torch.no_grad():
        together = model(**inputs_of(packed)).logits
        alone = [model(**inputs_of(causal_batch([(row,)], 0, CPU))).logits[0] for row in made]
        leaking = model(input_ids=packed.input_ids).logits
    places = [(0, 0), (0, len(made[0].ids)), (0, len(made[0].ids) + len(made[1].ids)), (1, 0), (1, len(made[3].ids))]
    for (line, start), own in zip(places, alone, strict=True):
        torch.testing.assert_close(together[line, start : start + len(own)], own, atol=2e-5, rtol=0)
    assert (leaking[0, places[1][1] : places[2][1]] - alone[1]).abs().max() > 1e-3  # the check above can fail


def test_a_model_whose_packed_rows_see_each_other_is_refused(base: Path) -> None:
    from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

    made = rows(4)
    groups = [(made[0],), (made[1], made[2]), (made[3],)]
    llama = AutoModelForCausalLM.from_pretrained(base)
    check_packing(llama, groups, 0, CPU, flat=False)
    check_packing(llama, groups, 0, CPU, flat=True)
    torch.manual_seed(0)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, state_size=4))
    check_packing(recurrent, [(made[0],)], 0, CPU, flat=False)  # nothing is packed
    with pytest.raises(JobFailed, match="packed rows of mamba models see each other"):
        check_packing(recurrent, groups, 0, CPU, flat=False)


def test_rows_longer_than_learned_positions_are_refused(encoder: Path, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, RobertaConfig, RobertaForMaskedLM

    bert = AutoModelForMaskedLM.from_pretrained(encoder)
    check_length(bert, 256)
    with pytest.raises(JobFailed, match="256 positions, the longest row has 257"):
        check_length(bert, 257)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    roberta = RobertaForMaskedLM(RobertaConfig(**sizes, max_position_embeddings=66, pad_token_id=1))
    roberta(input_ids=torch.full((1, 64), 7))
    check_length(roberta, 64)
    with pytest.raises(JobFailed, match="64 positions"):
        check_length(roberta, 65)
    check_length(AutoModelForCausalLM.from_pretrained(base), 100_000)  # rotary positions have no end


def test_padding_is_not_seen_and_not_learned(base: Path) -> None:
    model = load_base(job_file(), Base(str(base), None), CPU).eval()
    made = rows(6)
    batch = causal_batch([(row,) for row in made], 0, CPU)
    assert batch.attention_mask is None
    with torch.no_grad():
        logits = model(**inputs_of(batch)).logits
        for line, row in enumerate(made):
            own = model(**inputs_of(causal_batch([(row,)], 0, CPU))).logits[0]
            torch.testing.assert_close(logits[line, : len(own)], own, atol=2e-5, rtol=0)
            assert (batch.labels[line, len(own) :] == IGNORED).all()


def test_flat_lines_for_flash_attention() -> None:
    made = rows(4)
    batch = causal_batch([tuple(made[:2]), tuple(made[2:])], 0, CPU, flat=True)
    assert batch.input_ids.shape == (1, sum(len(row.ids) for row in made))
    assert int((batch.position_ids == 0).sum()) == 4
    assert batch.input_ids[0].tolist() == [int(token) for row in made for token in row.ids]


def test_steps_see_every_row_once_per_pass_longest_first_and_can_start_anywhere() -> None:
    groups = [(row,) for row in rows(10)]
    made = list(steps(groups, 4, seed=5, first=0, total=5))  # 20 places: two passes
    flat = [group[0].row for step in made for group in step]
    assert sorted(flat) == sorted(list(range(10)) * 2)
    assert length(made[0][0]) == max(map(length, groups))
    assert all([*map(length, step)] == sorted(map(length, step), reverse=True) for step in made)
    again = list(steps(groups, 4, seed=5, first=3, total=5))
    assert [[id(group) for group in step] for step in again] == [[id(group) for group in step] for step in made[3:]]
    other = list(steps(groups, 4, seed=6, first=0, total=5))
    assert [group[0].row for step in other for group in step] != flat
    singly = [step[0][0].row for step in steps(groups, 1, seed=5, first=0, total=30)]
    assert len({tuple(singly[start : start + 10]) for start in (0, 10, 20)}) == 3  # each pass in an order of its own
    assert len(next(steps(groups[:3], 8, seed=1, first=0, total=1))) == 8  # more places than rows


def test_workers_share_a_step_without_overlap() -> None:
    groups = [(row,) for row in rows(16)]
    shares = [micro_batches(groups, 2, rank, 4) for rank in range(4)]
    assert all(len(share) == 2 and all(len(batch) == 2 for batch in share) for share in shares)
    assert sorted(group[0].row for share in shares for batch in share for group in batch) == list(range(16))


def test_hiding_is_the_published_mixture_and_a_function_of_seed_turn_and_row() -> None:
    hiding = Hiding(mask=5, vocabulary=300, keep=(0, 1), seed=1)
    ids = np.concatenate([[0], np.random.default_rng(0).integers(10, 300, 20_000), [1]]).astype(np.int32)
    row = Sequence(ids, ids, 3)
    hidden = hiding.apply(row, 7)
    chosen = hidden.labels != IGNORED
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert not chosen[0]
    assert not chosen[-1]
    assert (hidden.ids[chosen] == 5).mean() == pytest.approx(0.8, abs=0.02)
    assert (hidden.ids[chosen] == hidden.labels[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert (hidden.ids[~chosen] == ids[~chosen]).all()
    assert (hiding.apply(row, 7).labels == hidden.labels).all()
    assert (hiding.apply(row, 8).labels != hidden.labels).any()
    assert hiding.apply(Sequence(ids[:3], ids[:3], 1), 0).learned >= 1
    assert hiding.apply(Sequence(ids[:1], ids[:1], 1), 0).learned == 0
    batch = masked_batch([(hidden,), (hiding.apply(Sequence(ids[:9], ids[:9], 1), 0),)], 0, CPU)
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(1).tolist() == [20_002, 9]
