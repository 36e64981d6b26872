"""From sequences to tensors: the order of rows, the split into micro batches, padding, packing, masking. Loads no model.

Everything is a function of (seed, step), so a resumed run needs no state of a data loader to see the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch

from cloudtune_trainer.tokens import IGNORED, Sequence

Group = tuple[Sequence, ...]
"""Sequences that lie in one line of a batch: one, or several when packed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro batch on the device, all [lines, width].

    ``attention_mask`` is None for causal models: padding lies on the right, where no token of the text can see it.
    ``position_ids`` restart with every sequence, which is what keeps packed neighbours apart; None when nothing is packed.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None


def steps(groups: Many[Group], batch_size: int, seed: int, first: int, total: int) -> Iterator[list[Group]]:
    """The groups of optimizer steps ``first`` .. ``total`` - 1, each longest first, so that micro batches hold equal lengths.

    The steps cut an endless stream of shuffled passes over the data; the last step is filled up from the next pass.
    """
    epoch, order = -1, [0]
    for number in range(first, total):
        chosen = []
        for index in range(number * batch_size, (number + 1) * batch_size):
            if index // len(groups) != epoch:
                epoch = index // len(groups)
                order = _shuffled(groups, seed, epoch)
            chosen.append(groups[order[index % len(groups)]])
        yield sorted(chosen, key=length, reverse=True)


def _shuffled(groups: Many[Group], seed: int, epoch: int) -> list[int]:
    indices: list[int] = np.random.default_rng((seed, epoch)).permutation(len(groups)).tolist()
    if epoch == 0:
        # The longest comes in the very first micro batch: a run that does not fit fails at once, not after hours.
        longest = max(range(len(groups)), key=lambda index: length(groups[index]))
        place = indices.index(longest)
        indices[0], indices[place] = indices[place], indices[0]
    return indices


def length(group: Group) -> int:
    """Tokens of a line."""
    return sum(len(sequence.ids) for sequence in group)


def micro_batches(groups: Many[Group], size: int, rank: int, workers: int) -> list[list[Group]]:
    """This worker's share of a step's groups, in micro batches of at most ``size``; equally many on every worker."""
    turn = size * workers
    return [list(groups[start + rank * size : start + (rank + 1) * size]) for start in range(0, len(groups), turn)]


def causal_batch(groups: Many[Group], pad: int, device: torch.device, *, flat: bool = False) -> Batch:
    """Next-token batch, padded on the right to its longest line. ``flat``: one line, as flash attention wants packed rows."""
    if flat:
        groups = [tuple(sequence for group in groups for sequence in group)]
    width = max(length(group) for group in groups)
    ids = np.full((len(groups), width), pad, np.int64)
    labels = np.full((len(groups), width), IGNORED, np.int64)
    positions = np.zeros((len(groups), width), np.int64)
    for line, group in enumerate(groups):
        at = 0
        for sequence in group:
            stop = at + len(sequence.ids)
            ids[line, at:stop], labels[line, at:stop] = sequence.ids, sequence.labels
            positions[line, at:stop] = np.arange(stop - at)
            at = stop
        # Padding goes on counting in a line of one sequence, so that the line is not taken for a packed one.
        positions[line, at:] = np.arange(width - at) + (at if len(group) == 1 else 0)
    packed = any(len(group) > 1 for group in groups)
    return Batch(_tensor(ids, device), _tensor(labels, device), _tensor(positions, device) if packed else None, None)


def masked_batch(groups: Many[Group], pad: int, device: torch.device) -> Batch:
    """Batch for an encoder: labels are where tokens were hidden; padding is masked, as these models look both ways."""
    width = max(length(group) for group in groups)
    ids = np.full((len(groups), width), pad, np.int64)
    labels = np.full((len(groups), width), IGNORED, np.int64)
    seen = np.zeros((len(groups), width), np.int64)
    for line, (sequence,) in enumerate(groups):
        stop = len(sequence.ids)
        ids[line, :stop], labels[line, :stop], seen[line, :stop] = sequence.ids, sequence.labels, 1
    return Batch(_tensor(ids, device), _tensor(labels, device), None, _tensor(seen, device))


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@dataclass(frozen=True, slots=True)
class Hiding:
    """What masked-language-model training hides: 15 % of the tokens; 80 % of those become the mask token, 10 % a random one.

    The published BERT recipe (Devlin et al., 2018). ``keep`` are ids that are never hidden.
    """

    mask: int
    vocabulary: int
    keep: tuple[int, ...]
    seed: int

    def apply(self, sequence: Sequence, turn: int) -> Sequence:
        """``sequence`` with tokens hidden; the choice depends on (seed, turn, row) alone. At least one token is hidden."""
        random = np.random.default_rng((self.seed, turn, sequence.row))
        ids = sequence.ids.copy()
        eligible = np.flatnonzero(~np.isin(ids, self.keep))
        if not len(eligible):
            return Sequence(ids, np.full_like(ids, IGNORED), sequence.row)
        hidden = eligible[random.random(len(eligible)) < 0.15]
        if not len(hidden):
            hidden = random.choice(eligible, 1)
        labels = np.full_like(ids, IGNORED)
        labels[hidden] = ids[hidden]
        fate = random.random(len(hidden))
        ids[hidden[fate < 0.8]] = self.mask
        swapped = hidden[(fate >= 0.8) & (fate < 0.9)]
        ids[swapped] = random.integers(0, self.vocabulary, len(swapped))
        return Sequence(ids, labels, sequence.row)
