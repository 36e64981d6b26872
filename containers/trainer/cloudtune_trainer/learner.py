"""The model with what moves its weights: loss, optimizer, precision. One call of ``learn`` is one optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.batches import Batch, Group, length
from cloudtune_trainer.loss import TokenLoss, decoder_of
from cloudtune_trainer.model import autocast
from cloudtune_trainer.optimizers import make_optimizer, set_rate
from cloudtune_trainer.sharding import clip, is_sharded
from cloudtune_trainer.tokens import IGNORED
from cloudtune_trainer.workers import Workers


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step did, over all workers. ``loss_sum`` in nats, ``norm`` of the gradient before clipping."""

    loss_sum: float
    learned: int
    tokens: int
    norm: float


@dataclass(frozen=True, slots=True)
class Learner:
    """``model`` is what is saved, ``loss`` computes its loss, ``network`` is ``loss`` with the workers' gradients joined."""

    model: Any
    loss: TokenLoss
    network: Any
    optimizer: Any
    scaler: Any
    precision: AbstractContextManager[Any]
    workers: Workers
    sharded: bool = False
    """Every worker holds a slice of every weight: whatever runs the model or reads a weight must run on all of them."""

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What ``question`` finds in the model, which runs as in training."""
        with self.precision:
            found = self.loss(None, question)
        self.rest()
        return found

    def rest(self) -> None:
        """After the model ran without a backward pass: shards again, which are what optimizer and checkpoints know."""
        if self.sharded:
            self.network.reshard()

    def state(self) -> dict[str, Any]:
        """State of optimizer and loss scale, for a checkpoint."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def make_loss(job: JobFile, model: Any) -> TokenLoss:
    """The loss of the job's task around ``model``."""
    return TokenLoss(model, causal=job.recipe.task == "causal_lm", chunked=job.recipe.training.fused_loss is True)


def make_learner(job: JobFile, loss: TokenLoss, workers: Workers) -> Learner:
    """Optimizer and data parallel wrapper around a trainable model in its loss. A sharded one is its own wrapper."""
    training, model = job.recipe.training, loss.model
    network: Any = loss
    if workers.count > 1 and not is_sharded(job):
        from torch.nn.parallel import DistributedDataParallel

        # Gradients live in the buckets that are sent, so that they exist once.
        network = DistributedDataParallel(loss, gradient_as_bucket_view=True)
    if training.neftune_noise_alpha is not None:
        _add_noise(decoder_of(model).get_input_embeddings(), training.neftune_noise_alpha)
    half = workers.device.type == "cuda" and job.recipe.model.dtype == "float16"
    return Learner(
        model=model,
        loss=loss,
        network=network,
        optimizer=make_optimizer(model, training),
        scaler=torch.amp.GradScaler(workers.device.type, enabled=half),
        precision=autocast(job),
        workers=workers,
        sharded=is_sharded(job),
    )


def _add_noise(embeddings: nn.Module, alpha: float) -> None:
    """NEFTune (Jain et al., 2023): uniform noise of size alpha / sqrt(length x width) on embeddings, in training only."""

    def noisy(module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        size = alpha / math.sqrt(output.shape[1] * output.shape[2])
        return output + torch.zeros_like(output).uniform_(-size, size)

    embeddings.register_forward_hook(noisy)


def learn(learner: Learner, batches: list[Batch], groups: list[Group], rate: float, longest_gradient: float) -> Step:
    """One optimizer step over this worker's ``batches``; ``groups`` are all workers'. Raises JobFailed when the loss is not finite."""
    workers = learner.workers
    learned_here = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    learned = int(workers.total([float(learned_here)])[0])
    loss_sum = torch.zeros((), dtype=torch.float64, device=workers.device)
    set_rate(learner.optimizer, rate)
    for number, batch in enumerate(batches):
        with _exchange(learner.network, last=number == len(batches) - 1):
            with learner.precision:
                loss = learner.network(batch)
            # Data parallel training averages gradients over workers; the loss shall be averaged over tokens.
            learner.scaler.scale(loss * (workers.count / max(1, learned))).backward()
        loss_sum += loss.detach().double()
    learner.scaler.unscale_(learner.optimizer)
    norm = _clip(learner, longest_gradient)
    nats = workers.total([float(loss_sum)])[0]
    if not math.isfinite(nats) or not (math.isfinite(norm) or learner.scaler.is_enabled()):
        raise JobFailed(
            f"the {'loss' if not math.isfinite(nats) else 'gradient'} is not a finite number",
            hint="lower learning_rate, lengthen the warm-up, use model.dtype: bfloat16 instead of float16, and look at the rows",
        )
    if norm == 0.0 and learned:
        raise JobFailed("no gradient reaches the trained weights", hint="check method.target_modules; without them nothing can be learned")
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    return Step(nats, learned, sum(length(group) for group in groups), norm)


def _clip(learner: Learner, longest: float) -> float:
    """Shorten the gradient to ``longest``; its length before."""
    trained = [weight for weight in learner.model.parameters() if weight.requires_grad]
    return clip(trained, longest, learner.workers) if learner.sharded else float(nn.utils.clip_grad_norm_(trained, longest))


def _exchange(network: Any, *, last: bool) -> AbstractContextManager[Any]:
    """Workers exchange gradients once per optimizer step, at the last micro batch.

    Shards are exchanged after every micro batch: kept whole until the last they would take the memory that sharding saves.
    """
    wait: Callable[[], AbstractContextManager[Any]] | None = getattr(network, "no_sync", None)
    return nullcontext() if last or wait is None else wait()


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Start torch's random numbers from (seed, step, rank): a resumed run draws the same dropout without stored state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))
