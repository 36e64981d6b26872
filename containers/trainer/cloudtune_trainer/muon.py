"""Muon for the pre-training of ``builtin:quickstart``, in a precision that every processor multiplies in.

``torch.optim.Muon`` orthogonalises in bfloat16 always. Processors without bfloat16 instructions emulate them, and then
that alone takes more than twice the time of everything else in a step (docs/trainer.md has the numbers). Momentum,
coefficients and rates are those of torch with ``nesterov`` and ``match_rms_adamw``, without weight decay;
``tests/trainer/test_quickstart.py`` holds one against the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315  # a polynomial that drives singular values from (0, 1] to about 1 in five rounds
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped for mypy here
    """Steps along the orthogonalised momentum of each matrix; ``precision`` is that of the orthogonalisation alone."""

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, momentum: float, precision: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "precision": precision})

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - torch's signature; nothing here reckons a loss again
        with torch.no_grad():
            for group in self.param_groups:
                for matrix in group["params"]:
                    if matrix.grad is not None:
                        direction = orthogonalised(self._ahead(matrix, group["momentum"]), group["precision"])
                        matrix.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))

    def _ahead(self, matrix: Tensor, momentum: float) -> Tensor:
        """The moving average of the gradients with this step's in it, looked ahead once more (Nesterov)."""
        state = self.state[matrix]
        if not state:
            state["average"] = torch.zeros_like(matrix.grad)
        state["average"].lerp_(matrix.grad, 1 - momentum)
        return torch.lerp(matrix.grad, state["average"], momentum)


def orthogonalised(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """``matrix`` with its singular values brought between 0.6 and 1.3 by Newton-Schulz rounds; only tiny ones stay smaller."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).to(precision)  # the square product is then the smaller one
    wide = wide / wide.norm().clamp(min=SMALLEST_NORM)  # no singular value is above the Frobenius norm
    for _ in range(ROUNDS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC), wide, beta=LINEAR)
    return wide.T if tall else wide
