"""The steps of a dry run, one after the other, each leaving one sentence of proof or raising ``Shortfall``.

Knows the folder that the programs share and what they must leave in it; how they are run is the runner's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudtune.manifest import MANIFEST_NAME, Manifest
from cloudtune.models.registry import entries, read_config
from cloudtune.recipe.examination import EXAMINATION_NAME, FOLDER, ORDERS_NAME, RELOADED_NAME, Examination, RehearsalOrders, Reloaded
from cloudtune.recipe.locations import is_builtin, is_local_model
from cloudtune.recipe.quickstart import QUICKSTART_CONFIG
from cloudtune.recipe.resolved import JobFile
from cloudtune.rendering.contract import INTERRUPTED, Contract, Limits, job_container, tool_container
from cloudtune.rendering.jobfile import bucket_inputs, local_inputs, template_file
from cloudtune.rendering.shrink import shrunk_config
from cloudtune.verbs.render import render

if TYPE_CHECKING:
    from cloudtune.engine.runner import Finished, Runner
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

STEP_SECONDS = 300.0
SAMPLE_ROWS = 32
MOST_ROWS = 20_000
MOST_TOKENS = 512
TAIL_LINES = 15
# Relative difference of two evaluations of the same weights, one of them merged and saved in between.
SAME_LOSS = 1e-3
_SAVED = re.compile(r"^save · .*checkpoint step-", re.MULTILINE)
_STAND_IN_WORDS = 2048


class Shortfall(Exception):
    """A step that did not prove what it should; ``log_tail`` are the last lines of the program that was run."""

    def __init__(self, name: str, what: str, log: str = "") -> None:
        self.name = name
        self.what = what
        self.log_tail = tuple(line for line in log.splitlines() if line.strip())[-TAIL_LINES:]
        super().__init__(what)


@dataclass
class Rehearsal:
    """One dry run under way."""

    plan: Plan
    session: Session
    runner: Runner
    image: str
    folder: Path
    contract: Contract
    limits: Limits
    say: Callable[[str], None]
    examination: Examination | None = None
    tokenizer_from: str | None = None
    first: Finished | None = None
    manifest: Manifest | None = None
    interrupted_at: int | None = None
    merged: bool = False

    @property
    def name(self) -> str:
        """The job's id: of its own, so that two dry runs at once do not meet."""
        return f"dry-run-{self.folder.name.rpartition('-')[2]}"

    def places(self) -> dict[str, str]:
        """A channel's path inside the job → the user's own path, as the recipe means it."""
        found = {item.channel: _shown(item.source) for item in local_inputs(self.plan)}
        found |= {item.channel: item.uri for item in bucket_inputs(self.plan)}
        template = template_file(self.plan)
        return {**found, "job/chat_template.jinja": _shown(template)} if template else found

    def unproved(self) -> tuple[str, ...]:
        """What a dry run of this plan cannot know, most important first."""
        return tuple(_unproved(self))


def _shown(path: Path) -> str:
    """Relative to the current folder where that is shorter to read."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def proofs_of(run: Rehearsal) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, step) in order. A step is only taken when the one before it proved its point; wrong data ends it early."""
    yield "image and contract", lambda: _lay_out(run)
    yield "data, tokenizer and masking", lambda: _examine(run)
    if run.examination is None or run.examination.wrong:
        return
    yield "training and checkpoint", lambda: _train(run)
    yield "SIGTERM", lambda: _interrupted(run)
    yield "resume", lambda: _resume(run)
    yield "evaluation", lambda: _evaluated(run)
    yield "saving", lambda: _saved(run)
    yield "reloading", lambda: _reload(run)


def _lay_out(run: Rehearsal) -> str:
    """The job's folder with the user's own files, and the rehearsal's orders."""
    bundle = render(run.plan)
    inputs = run.folder / "input" / "data"
    for name in ("input/data/job", f"input/data/{FOLDER}", "model", "output/data", "checkpoints"):
        (run.folder / name).mkdir(parents=True)
    for name, content in bundle.job.items():
        (inputs / "job" / name).write_bytes(content)
    for item in local_inputs(run.plan):
        if item.source.is_file():
            _bring(item.source, inputs / item.channel)
    recipe = run.plan.recipe
    base_dir = Path(run.plan.recipe_dir)
    tokenizer = inputs / FOLDER / "tokenizer"
    from cloudtune.sources.tokenizers import bring_tokenizer

    run.tokenizer_from = bring_tokenizer(recipe.model.base, recipe.model.revision, base_dir, tokenizer)
    config = shrunk_config(config_of(run.plan, run.session))
    orders = RehearsalOrders(
        job=JobFile.model_validate_json(bundle.job["job.json"]),
        config=config,
        own_tokenizer=run.tokenizer_from is not None,
        steps=_steps(int(config.get("vocab_size") or 0) if run.tokenizer_from else _STAND_IN_WORDS),
        sample_rows=SAMPLE_ROWS,
        most_rows=MOST_ROWS,
        most_tokens=MOST_TOKENS,
    )
    (inputs / FOLDER / ORDERS_NAME).write_text(orders.model_dump_json())
    if run.contract == "sagemaker":
        _sagemaker_config(run.folder / "input" / "config")
    where = f"image {run.image.removeprefix('sha256:')[:12]}" if run.image else "plain processes"
    return f"{where}, folders as {run.contract} lays them out, {'no network' if run.limits.network == 'none' else 'open network'}"


def _bring(source: Path, place: Path) -> None:
    """A hard link, or a copy where the file system has no links; readable for every user of the container."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.stat().st_mode & 0o004:
            os.link(source, place)
            return
    except OSError:
        pass  # another file system; copying works everywhere
    shutil.copyfile(source, place)


def _steps(words: int) -> int:
    """Enough that SIGTERM arrives before the end, few enough for a minute: a large vocabulary makes slow steps."""
    return 240 if words <= 8_192 else 60 if words <= 65_536 else 16


def _sagemaker_config(folder: Path) -> None:
    folder.mkdir(parents=True)
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (folder / "resourceconfig.json").write_text(json.dumps(resources))
    (folder / "hyperparameters.json").write_text("{}")


def config_of(plan: Plan, session: Session) -> Mapping[str, Any]:
    """The model's config.json: the recipe's, the built-in's, a folder's, the offline registry's, the hub's. Raises SourceError."""
    model = plan.recipe.model
    base_dir = Path(plan.recipe_dir)
    if model.config:
        return read_config(base_dir / Path(model.config).expanduser())
    if is_builtin(model.base):
        return QUICKSTART_CONFIG
    if is_local_model(model.base):
        return read_config(base_dir / Path(model.base).expanduser())
    wanted = model.base.lower()
    for entry in entries():
        if wanted in {entry.id.lower(), *(alias.lower() for alias in entry.aliases)}:
            return entry.config
    from cloudtune.sources.hub import fetch_config

    return fetch_config(model.base, model.revision, cache_dir=session.settings.cache)


def _examine(run: Rehearsal) -> str:
    name = "data, tokenizer and masking"
    ended = _tool(run, "prepare")
    path = run.folder / "output" / FOLDER / EXAMINATION_NAME
    if path.exists():
        run.examination = Examination.model_validate_json(path.read_bytes())
    if ended.exit_code != 0 or run.examination is None:
        raise Shortfall(name, _failure(run) or f"ended with exit code {ended.exit_code}", ended.log)
    found = run.examination
    if found.wrong:
        wrong = sum(1 for defect in found.defects if defect.severity == "wrong")
        raise Shortfall(name, f"{wrong} kind{'s' if wrong > 1 else ''} of wrong data; nothing was trained")
    packed = f", packed into {found.packed_sequences:,} sequences" if found.packed_sequences else ""
    return (
        f"{found.rows:,} rows read, {found.tokenized_rows:,} tokenised, {found.kept_rows:,} kept{packed}; "
        f"{found.trained_tokens:,} of {found.tokens:,} tokens are trained; {found.model_class} with {found.parameters:,} weights"
    )


def _train(run: Rehearsal) -> str:
    """Start the job, and send SIGTERM as soon as its first checkpoint is on the disk."""
    name = "training and checkpoint"
    spec = job_container(run.contract, run.image, run.folder, run.name, run.limits)
    run.first = run.runner.run(spec, seconds=STEP_SECONDS, watch=lambda text: bool(_SAVED.search(text)))
    if run.first.exit_code not in (0, INTERRUPTED[run.contract]):
        raise Shortfall(name, _failure(run) or f"the job ended with exit code {run.first.exit_code}", run.first.log)
    marks = sorted((run.folder / "checkpoints").glob("*/COMPLETE"))
    if not marks:
        raise Shortfall(name, "the job left no complete checkpoint", run.first.log)
    return f"{len(marks)} complete checkpoint(s), newest {marks[-1].parent.name}"


def _interrupted(run: Rehearsal) -> str:
    ended, expected = run.first, INTERRUPTED[run.contract]
    manifest = _manifest(run)
    if ended is None or not ended.signalled or ended.exit_code != expected or manifest is None or manifest.outcome != "interrupted":
        outcome = manifest.outcome if manifest else "no manifest"
        code = ended.exit_code if ended else None
        raise Shortfall(
            "SIGTERM", f"expected exit code {expected} and an interrupted run, got {code} and {outcome}", ended.log if ended else ""
        )
    run.interrupted_at = manifest.steps
    return f"saved at step {manifest.steps} of {manifest.total_steps} and ended with exit code {expected}"


def _resume(run: Rehearsal) -> str:
    spec = job_container(run.contract, run.image, run.folder, run.name, run.limits)
    ended = run.runner.run(spec, seconds=STEP_SECONDS)
    run.manifest = _manifest(run)
    manifest = run.manifest
    if ended.exit_code != 0 or manifest is None or manifest.outcome != "complete":
        raise Shortfall("resume", _failure(run) or f"the resumed job ended with exit code {ended.exit_code}", ended.log)
    if manifest.resumed_from_step != run.interrupted_at:
        raise Shortfall("resume", f"resumed from step {manifest.resumed_from_step}, not from {run.interrupted_at}", ended.log)
    return f"went on from step {manifest.resumed_from_step} to {manifest.steps} of {manifest.total_steps}"


def _evaluated(run: Rehearsal) -> str:
    manifest = run.manifest
    if manifest is None or manifest.eval_loss_before is None or manifest.eval_loss_after is None:
        raise Shortfall("evaluation", "the manifest has no evaluation loss")
    return f"{manifest.eval_rows} rows, loss {manifest.eval_loss_before:.3f} before and {manifest.eval_loss_after:.3f} after"


def _saved(run: Rehearsal) -> str:
    """Every artifact that the manifest names is there with its digest."""
    if run.manifest is None:
        raise Shortfall("saving", "there is no manifest")
    home = run.folder / "model"
    for artifact in run.manifest.artifacts:
        path = home / artifact.path
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != artifact.sha256:
            raise Shortfall("saving", f"{artifact.path} is missing or not what the manifest says")
    run.merged = (home / "merged").is_dir()
    kinds = [name for name in ("adapter", "full", "merged") if (home / name).is_dir()]
    return f"{' and '.join(kinds)}: {len(run.manifest.artifacts)} files, all digests right"


def _reload(run: Rehearsal) -> str:
    ended = _tool(run, "reload")
    path = run.folder / "output" / FOLDER / RELOADED_NAME
    if ended.exit_code != 0 or not path.exists():
        raise Shortfall("reloading", _failure(run) or f"ended with exit code {ended.exit_code}", ended.log)
    found = [Reloaded.model_validate(item) for item in json.loads(path.read_bytes())]
    for item in found:
        if not abs(item.eval_loss - item.expected) <= SAME_LOSS * max(1.0, abs(item.expected)):
            raise Shortfall("reloading", f"the {item.kind} has loss {item.eval_loss:.5f} in a new process, {item.expected:.5f} when saved")
    return ", ".join(f"{item.kind}: loss {item.eval_loss:.5f} again" for item in found)


def _tool(run: Rehearsal, what: str) -> Finished:
    spec = job_container("local", run.image, run.folder, run.name, replace(run.limits, network="none"))
    return run.runner.run(tool_container(spec, run.folder, "cloudtune_rehearsal", what), seconds=STEP_SECONDS)


def _manifest(run: Rehearsal) -> Manifest | None:
    path = run.folder / "model" / MANIFEST_NAME
    return Manifest.model_validate_json(path.read_bytes()) if path.exists() else None


def _failure(run: Rehearsal) -> str:
    path = run.folder / "output" / "failure"
    return path.read_text(errors="replace").strip().split("\n", 1)[0] if path.exists() else ""


def _unproved(run: Rehearsal) -> Iterator[str]:
    plan, recipe = run.plan, run.plan.recipe
    yield "memory, speed and loss of the real model: the shrunk one has random weights"
    if run.runner.mode == "process":
        yield "the image: no container was run, so packages, mounts, memory limits and users are this machine's own"
    elif plan.layout.gpus:
        yield "the GPU image: the cpu image was run, from the same Dockerfile and trainer with another build of torch"
    if plan.layout.gpus:
        yield f"GPU and driver of {plan.chosen.instance}: the job checks both in its first minute"
    if plan.layout.gpus * plan.layout.nodes > 1:
        yield f"{plan.layout.nodes} x {plan.layout.gpus} GPUs together: one process was run"
    if run.tokenizer_from is None and not is_builtin(recipe.model.base):
        yield f"the tokenizer of {recipe.model.base}: out of reach here, so token counts and its chat template are a stand-in's"
    if not is_builtin(recipe.model.base) and not is_local_model(recipe.model.base):
        yield "access to the model's weights from inside the job"
    if recipe.model.attention == "flash_attention_2":
        yield "flash attention: it needs a GPU"
    if recipe.secrets:
        yield f"the secrets {', '.join(sorted(recipe.secrets))}: none was read"
    found = run.examination
    if found and found.out_of_reach:
        away = ", ".join(run.places().get(path, path) for path in found.out_of_reach)
        yield f"the data {away}: not a file here, so made-up rows of its format stood in; try a local sample"
    if found and found.tokenized_rows < found.rows:
        yield f"{found.rows - found.tokenized_rows:,} of {found.rows:,} rows: their text was looked at, they were not tokenised"
    if found and found.longest_tokens > MOST_TOKENS:
        yield f"training on more than {MOST_TOKENS} tokens: longer rows were counted at full length and cut for the shrunk model"
