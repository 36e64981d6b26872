"""The run, from top to bottom: base, data, model, first evaluation, steps, last evaluation, artifacts, manifest.

    CLOUDTUNE_ROOT=/tmp/job python -m cloudtune_trainer

Everything random is a function of (seed, step): a run that was interrupted and resumed leaves the same bytes as one
that was not. The loop is our own, so that what happens in a step is what stands here, and the memory estimate can
replay it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer import artifacts, checkpoints, checks, data, orders, shards
from cloudtune_trainer.batches import Batch, Group, Hiding, causal_batch, masked_batch, micro_batches, steps
from cloudtune_trainer.chat import ChatRenderer
from cloudtune_trainer.checkpoints import Progress
from cloudtune_trainer.evaluation import eval_batches, mean_loss
from cloudtune_trainer.learner import Learner, Step, learn, make_learner, make_loss, seed_everything
from cloudtune_trainer.leaving import leave
from cloudtune_trainer.loss import TokenLoss, check_chunked
from cloudtune_trainer.model import Base, find_base, load_base, load_skeleton, load_tokenizer, make_trainable, pad_id, read_unquantised
from cloudtune_trainer.packing import pack
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.peaks import Peaks, let_go
from cloudtune_trainer.report import Pace, Report
from cloudtune_trainer.run import Material, Outcome, Run, epochs
from cloudtune_trainer.schedule import rate_at
from cloudtune_trainer.sharding import is_sharded, spread
from cloudtune_trainer.surroundings import Interrupted, StopSign, quiet_transformers, use_threads
from cloudtune_trainer.tokens import Sequence, Tokens
from cloudtune_trainer.trackers import open_trackers
from cloudtune_trainer.workers import connect, disconnect, join

BEST = "best.safetensors"


def train(job: JobFile, paths: Paths, stop: StopSign) -> Outcome:
    """Do the whole job in ``paths``. Raises JobFailed with a sentence for the user."""
    use_threads(job)
    quiet_transformers()
    workers = join(job)
    run = Run(job, paths, workers, Report(paths.metrics, speaks=workers.first), Peaks(workers.device), stop, time.monotonic())
    if workers.first:
        artifacts.empty(paths.model)
        run.report.trackers.extend(open_trackers(job, paths))
    try:
        material = _gather(run)
        connect(workers)
        learner, progress = _load(run, material)
    except Interrupted:
        leave(run, "interrupted", None, None, Progress(orders.digest(job)), None)
        return "interrupted"
    resumed = progress.step or None
    progress = _evaluate_before(run, material, learner, progress)
    progress, outcome = _steps(run, material, learner, progress)
    outcome, progress = _finish(run, material, learner, progress, outcome)
    leave(run, outcome, material, learner, progress, resumed)
    paths.failure.unlink(missing_ok=True)  # of an earlier try
    disconnect()
    return outcome


def _gather(run: Run) -> Material:
    """Base model's place, tokenizer, data. No weight is loaded yet."""
    job = run.job
    with run.peaks.phase("prepare"):
        base = find_base(job, run.paths, run.report, run.stop)
    run.report.row("tokenize", message=f"reading {len(job.train) + len(job.eval)} data sources")
    with run.peaks.phase("tokenize"):
        tokenizer, found, hiding = tokenised(job, run.paths, base)
    run.report.row("tokenize", message=_counts(found, job.recipe.data.max_length))
    if run.workers.count == 1:
        run.stop.check()  # several workers leave together, once they can talk
    groups = _lines(job, found.train)
    return Material(
        base=base,
        tokenizer=tokenizer,
        pad=pad_id(tokenizer),
        data=found,
        groups=groups,
        hiding=hiding,
        evaluation=eval_batches(found.evaluation, job.layout.micro_batch_size),
        total_steps=_total_steps(job, len(groups)),
    )


def tokenised(job: JobFile, paths: Paths, base: Base) -> tuple[Any, data.Data, Hiding | None]:
    """Tokenizer, sequences, and for masked_lm what hides tokens; in the evaluation rows they are hidden already."""
    tokenizer = load_tokenizer(job, base, paths)
    tokens = Tokens(tokenizer, job.recipe.data, job.recipe.task, lambda: ChatRenderer(tokenizer))
    found = data.prepare(job, paths, tokens)
    hiding = _hiding(job, tokenizer)
    if hiding is not None:
        found = replace(found, evaluation=tuple(hiding.apply(sequence, 0) for sequence in found.evaluation))
    return tokenizer, found, hiding


def _counts(found: data.Data, limit: int) -> str:
    said = f"{found.train_rows} rows to learn, {found.eval_rows} held out"
    if found.cut_rows:
        said += f"; {found.cut_rows} were longer than max_length {limit} and were cut"
    if found.dropped_rows:
        said += f"; {found.dropped_rows} were left out, as nothing in them is learned"
    return said


def _lines(job: JobFile, sequences: tuple[Sequence, ...]) -> list[Group]:
    if not job.recipe.data.packing:
        return [(sequence,) for sequence in sequences]
    packed = pack([len(sequence.ids) for sequence in sequences], job.recipe.data.max_length)
    return [tuple(sequences[index] for index in group) for group in packed]


def _hiding(job: JobFile, tokenizer: Any) -> Hiding | None:
    if job.recipe.task != "masked_lm":
        return None
    if tokenizer.mask_token_id is None:
        raise JobFailed(
            "the tokenizer has no mask token, so masked_lm cannot hide anything", hint="use task: causal_lm, or an encoder model"
        )
    return Hiding(tokenizer.mask_token_id, len(tokenizer), tuple(tokenizer.all_special_ids), job.recipe.training.seed)


def _total_steps(job: JobFile, lines: int) -> int:
    training = job.recipe.training
    if training.max_steps is not None:
        return training.max_steps
    return max(1, math.ceil((training.epochs or 3.0) * lines / job.layout.batch_size))


def _load(run: Run, material: Material) -> tuple[Learner, Progress]:
    """Model, adapters and optimizer on the device, at the newest checkpoint if there is one."""
    job = run.job
    run.report.row("load", message=f"loading {job.recipe.model.base}")
    with run.peaks.phase("load"):
        learner = make_learner(job, _model(run, material.base), run.workers)
        progress = Progress(orders.digest(job))
        home = checkpoints.newest(run.paths.checkpoints, progress.job, run.workers)
        if home is not None:
            progress = checkpoints.read_progress(home)
            _restore(run, learner, home)
            run.report.row("load", message=f"resuming from the checkpoint of step {progress.step}")
        _check(run, material, learner)
        let_go(run.workers.device)
    if run.workers.any(run.stop.up):
        raise Interrupted
    return learner, progress


def _model(run: Run, base: Base) -> TokenLoss:
    """The trainable model in its loss, whole on this worker's device or spread over all workers."""
    job, sharded = run.job, is_sharded(run.job)
    model = load_skeleton(job, base) if sharded else load_base(job, base, run.workers.device)
    seed_everything(job.recipe.training.seed, 0, 0)  # the same adapters on every worker and in every run
    loss = make_loss(job, make_trainable(job, model, base))
    if sharded:
        source = None
        if run.workers.first:
            whole = read_unquantised(job, base)
            seed_everything(job.recipe.training.seed, 0, 0)
            source = make_loss(job, make_trainable(job, whole, base))
        spread(job, loss, source, run.workers)
    elif artifacts.moves_base(job) and run.workers.first:
        artifacts.keep_initial(run.paths, loss.model)
    return loss


def _restore(run: Run, learner: Learner, home: Path) -> None:
    """Weights and optimizer as a complete checkpoint has them."""
    if learner.sharded:
        shards.load(home, learner.model, learner.optimizer, run.workers)
    else:
        checkpoints.restore_weights(home / "weights.safetensors", learner.model, run.workers.device)
        learner.load_state(checkpoints.read_optimizer(home, run.workers.device))


def _check(run: Run, material: Material, learner: Learner) -> None:
    """What would go wrong silently, asked on one line; the same line on every worker."""
    device, flat = run.workers.device, _flat(run.job)
    checks.check_length(learner.model, max(len(sequence.ids) for sequence in (*material.data.train, *material.data.evaluation)))
    if run.job.recipe.data.packing:
        learner.ask(lambda model: checks.check_packing(model, material.groups, material.pad, device, flat=flat))
    if learner.loss.chunked:
        batch = causal_batch(material.groups[:1], material.pad, device, flat=flat)
        learner.ask(lambda model: check_chunked(model, batch))


def _flat(job: JobFile) -> bool:
    """Flash attention takes packed rows as one line."""
    return job.recipe.data.packing and job.recipe.model.attention == "flash_attention_2"


def _evaluate_before(run: Run, material: Material, learner: Learner, progress: Progress) -> Progress:
    """The held-out loss of the base: adapters begin as nothing."""
    if progress.step or not material.evaluation:
        return progress
    loss = _evaluate(run, material, learner, 0)
    return replace(progress, eval_loss_before=loss, eval_loss=loss, eval_loss_step=0, best_eval_loss=loss)


def _evaluate(run: Run, material: Material, learner: Learner, step: int) -> float | None:
    run.report.row("eval", step=step, total_steps=material.total_steps, message=f"evaluating {material.data.eval_rows} rows")
    with run.peaks.phase("eval"):
        loss = mean_loss(
            learner.loss, material.evaluation, material.pad, run.workers, learner.precision, run.stop, together=learner.sharded
        )
    learner.rest()
    if loss is not None:
        run.report.row("eval", step=step, total_steps=material.total_steps, eval_loss=round(loss, 6))
    return loss


def _steps(run: Run, material: Material, learner: Learner, progress: Progress) -> tuple[Progress, Outcome]:
    """Optimizer steps until all are done, or something asks to end. Checkpoints and evaluations on the way."""
    training, total = run.job.recipe.training, material.total_steps
    every_save, every_eval = int(training.save_steps), int(training.eval_steps)
    before = progress
    pace = Pace(progress.step, total)
    learner.network.train()
    if material.evaluation and progress.step and progress.step % every_eval == 0 and progress.eval_loss_step != progress.step:
        progress = _evaluated(run, material, learner, progress)  # the one that an interruption broke off
    for groups in steps(material.groups, run.job.layout.batch_size, training.seed, progress.step, total):
        if run.workers.any(run.stop.up):
            return _timed(run, before, progress), "interrupted"
        if _out_of_time(run, before):
            return _timed(run, before, progress), "stopped"
        if _out_of_patience(run, material, progress):
            break
        begun = time.monotonic()
        with run.peaks.phase("train"):
            rate = rate_at(progress.step, total, training)
            step = _one_step(run, material, learner, groups, progress.step, rate)
        progress = _added(progress, step, time.monotonic() - begun)
        pace.add(step.loss_sum, step.learned, step.tokens)
        if pace.due(progress.step):
            facts = {"epoch": epochs(run, material, progress), "learning_rate": rate, "grad_norm": round(step.norm, 5)}
            run.report.row("train", **facts, **pace.row(progress.step))
        if material.evaluation and (progress.step % every_eval == 0 or progress.step == total):
            progress = _evaluated(run, material, learner, progress)
        if progress.step % every_save == 0:
            _save(run, learner, _timed(run, before, progress), total)
    return _timed(run, before, progress), "complete"


def _one_step(run: Run, material: Material, learner: Learner, groups: list[Group], number: int, rate: float) -> Step:
    seed_everything(run.job.recipe.training.seed, number + 1, run.workers.rank)
    batches = _batches(run, material, groups, number + 1)
    try:
        return learn(learner, batches, groups, rate, run.job.recipe.training.max_grad_norm)
    except JobFailed as error:
        raise JobFailed(f"step {number + 1}: {error.what}", hint=error.hint) from error


def _batches(run: Run, material: Material, groups: list[Group], turn: int) -> list[Batch]:
    """This worker's micro batches of one step."""
    layout, device = run.job.layout, run.workers.device
    mine = micro_batches(groups, layout.micro_batch_size, run.workers.rank, run.workers.count)
    hiding = material.hiding
    if hiding is not None:
        return [masked_batch([(hiding.apply(line[0], turn),) for line in lines], material.pad, device) for lines in mine]
    return [causal_batch(lines, material.pad, device, flat=_flat(run.job)) for lines in mine]


def _added(progress: Progress, step: Step, seconds: float) -> Progress:
    return replace(
        progress,
        step=progress.step + 1,
        tokens=progress.tokens + step.tokens,
        trained_tokens=progress.trained_tokens + step.learned,
        loss_sum=progress.loss_sum + step.loss_sum,
        train_seconds=progress.train_seconds + seconds,
    )


def _timed(run: Run, before: Progress, progress: Progress) -> Progress:
    """``progress`` with the wall time of this process added to that of the ones before it."""
    return replace(progress, seconds=before.seconds + time.monotonic() - run.started)


def _out_of_time(run: Run, before: Progress) -> bool:
    limit = run.job.max_seconds
    return limit is not None and run.workers.any(before.seconds + time.monotonic() - run.started >= limit)


def _out_of_patience(run: Run, material: Material, progress: Progress) -> bool:
    """Whether early stopping ends the run here, which the recipe asked for: it is done. Asked before a step, so also after a restart."""
    patience = run.job.recipe.training.early_stopping_patience
    if patience is None or progress.evaluations_without_gain < patience:
        return False
    waited = progress.evaluations_without_gain
    said = f"no gain in {waited} evaluation{'' if waited == 1 else 's'}: ending early"
    run.report.row("eval", step=progress.step, total_steps=material.total_steps, message=said)
    return True


def _evaluated(run: Run, material: Material, learner: Learner, progress: Progress) -> Progress:
    loss = _evaluate(run, material, learner, progress.step)
    if loss is None:
        return progress
    better = progress.best_eval_loss is None or loss < progress.best_eval_loss
    if better and run.job.recipe.training.early_stopping_patience is not None:
        if learner.sharded:
            shards.save_best(run.paths.checkpoints, learner.model, run.workers)
        elif run.workers.keeps:
            checkpoints.save_weights(run.paths.checkpoints / BEST, learner.model)
    return replace(
        progress,
        eval_loss=loss,
        eval_loss_step=progress.step,
        best_eval_loss=loss if better else progress.best_eval_loss,
        evaluations_without_gain=0 if better else progress.evaluations_without_gain + 1,
    )


def _save(run: Run, learner: Learner, progress: Progress, total: int) -> None:
    missing = not checkpoints.exists(run.paths.checkpoints, progress.step)
    with run.peaks.phase("save"):
        if learner.sharded:
            missing = run.workers.any(missing)
            if missing:
                shards.save(run.paths.checkpoints, learner.model, learner.optimizer, progress, run.workers)
        elif missing and run.workers.keeps:
            checkpoints.save(run.paths.checkpoints, learner.model, learner.state(), progress)
    if missing:
        message = f"checkpoint {checkpoints.home_of(run.paths.checkpoints, progress.step).name}"
        run.report.row("save", step=progress.step, total_steps=total, message=message)
    run.workers.wait()


def _finish(run: Run, material: Material, learner: Learner, progress: Progress, outcome: Outcome) -> tuple[Outcome, Progress]:
    """Checkpoint, best weights back in place, and the last evaluation. Being asked to end meanwhile makes it an interruption."""
    if progress.step:
        _save(run, learner, progress, material.total_steps)
    if outcome != "interrupted" and run.job.recipe.training.early_stopping_patience is not None and _back_to_best(run, learner):
        progress = replace(progress, eval_loss=progress.best_eval_loss, eval_loss_step=progress.step)
    if outcome != "interrupted" and material.evaluation and progress.eval_loss_step != progress.step:
        progress = _evaluated(run, material, learner, progress)
    return ("interrupted" if run.workers.any(run.stop.up) else outcome), progress


def _back_to_best(run: Run, learner: Learner) -> bool:
    """Put the best weights back; False when none were kept."""
    if learner.sharded:
        if shards.has_best(run.paths.checkpoints, run.workers):
            shards.load_best(run.paths.checkpoints, learner.model, run.workers)
            return True
        return False
    best = run.paths.checkpoints / BEST
    if best.exists():
        checkpoints.restore_weights(best, learner.model, run.workers.device)
    return best.exists()
