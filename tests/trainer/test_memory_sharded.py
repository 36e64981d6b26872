"""The model of sharded training against the oracle: FSDP2 itself around the real model, traced with four pretended workers.

Allocated peaks must be equal within 0.1 %. Widths are divisible by four: what uneven shards are padded with is not modelled.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.program import Job, tape_of
from cloudtune.models.families import shape_of
from cloudtune.recipe.spec import FullMethod, QloraMethod
from tests.trainer.live_peak import live_peak
from tests.trainer.test_memory_oracle import METHODS, TOLERANCE, Case, builder, config_of

pytestmark = pytest.mark.stack
WORKERS = 4
GRID = list(product(("full", "lora", "nf4"), (True, False), (True, False), (1, 2)))
SAMPLE = [("full", True, True, 2), ("lora", False, False, 1), ("nf4", True, True, 1)]


@pytest.mark.parametrize(("method", "checkpointing", "autocast", "micro_batches"), SAMPLE)
def test_sample(method: str, checkpointing: bool, autocast: bool, micro_batches: int) -> None:
    check(Case("llama", method, checkpointing, autocast, "sdpa"), micro_batches)


@pytest.mark.full
@pytest.mark.parametrize(("method", "checkpointing", "autocast", "micro_batches"), GRID)
def test_grid(method: str, checkpointing: bool, autocast: bool, micro_batches: int) -> None:
    check(Case("llama", method, checkpointing, autocast, "sdpa"), micro_batches)


def check(case: Case, micro_batches: int) -> None:
    traced, reckoned = traced_peak(case, micro_batches), reckoned_peak(case, micro_batches)
    assert reckoned == pytest.approx(traced, rel=TOLERANCE), f"{case}: traced {traced:,}, reckoned {reckoned:,}"


def traced_peak(case: Case, micro_batches: int) -> int:
    import torch

    from cloudtune_trainer.batches import Batch
    from cloudtune_trainer.loss import TokenLoss
    from tests.trainer import memory_oracle, sharded_oracle

    method = METHODS[case.method]
    word = torch.bfloat16 if case.autocast else torch.float32

    def finish(model: torch.nn.Module) -> None:
        memory_oracle.materialise(model, None if isinstance(method, FullMethod) else word)
        if isinstance(method, QloraMethod):
            memory_oracle.pack(model, nested=method.double_quant, word=word)

    def step(root: Any) -> Any:
        ids, labels = torch.zeros((2, 256), dtype=torch.long), torch.zeros((2, 256), dtype=torch.long)
        return root(Batch(ids, labels, None, None))

    return sharded_oracle.trace(
        builder(case, method, word),
        lambda model: TokenLoss(model, causal=True, chunked=False),
        step,
        finish=finish,
        narrow=word if case.autocast else None,
        workers=WORKERS,
        accumulation=micro_batches,
    ).peak


def reckoned_peak(case: Case, micro_batches: int) -> int:
    """The peak of the tape that cloudtune writes for ``case``."""
    behaviour = Behaviour(
        compute_word=2 if case.autocast else 4,
        autocast=case.autocast,
        checkpointing=case.checkpointing,
        clip_gradients=False,
        loading="host",
        accumulation=micro_batches > 1,
    )
    shape = shape_of({**config_of(case).to_dict(), "model_type": case.family}, source="oracle")
    tape = tape_of(Job(shape, METHODS[case.method], behaviour, 2, 256, (0, 0), shards=WORKERS, traced=True))
    return live_peak(tape)
