"""Score the memory reckoning against published measurements.

    python benchmarks/memory/published.py CASES.csv [--verdicts VERDICTS.csv] [--json] [--programs]

Every row of the file is accounted for: scored, or listed with the reason why not. Errors are predicted / measured - 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from programs import PROGRAMS, Program, program_of  # noqa: E402
from rows import Row, read_cases, read_verdicts  # noqa: E402

from cloudtune.errors import CloudtuneError  # noqa: E402
from cloudtune.memory.allocator import replay  # noqa: E402
from cloudtune.memory.device import Device  # noqa: E402
from cloudtune.memory.program import Job, tape_of  # noqa: E402
from cloudtune.models.families import shape_of  # noqa: E402
from cloudtune.models.registry import find_shape  # noqa: E402
from cloudtune.models.shape import ModelShape, Tensor  # noqa: E402
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod  # noqa: E402

# Real sizes as torch's out-of-memory messages print them ("23.65 GiB total capacity" for an RTX 4090).
CARD_MIB = {"T4": 14912, "4080": 16376, "3090": 24258, "4090": 24217, "V100-SXM2-16GB": 16160}
ROW_KEYS = ("id", "metric", "measured_bytes", "predicted_bytes", "error", "scored", "reason")
VERDICT_KEYS = ("id", "outcome", "predicted", "right")
METRICS = {"max_allocated": "allocated", "max_reserved": "reserved", "nvidia-smi": "device", "process_total": "device"}


@dataclass(frozen=True, slots=True)
class Scored:
    """One row of the answer."""

    id: str
    source: str
    metric: str
    measured_bytes: int | None
    predicted_bytes: int | None
    error: float | None
    scored: bool
    reason: str


class Refusal(Exception):
    """Why a row cannot be scored."""


def score(row: Row) -> Scored:
    """Predict one row, or say why not."""
    try:
        predicted = predict(row)
    except (Refusal, CloudtuneError) as refusal:
        reason = refusal.what if isinstance(refusal, CloudtuneError) else str(refusal)
        return Scored(row.id, row.source, row.metric, row.measured_bytes, None, None, scored=False, reason=reason)
    assert row.measured_bytes is not None
    error = predicted / row.measured_bytes - 1
    return Scored(row.id, row.source, row.metric, row.measured_bytes, predicted, error, scored=True, reason="")


def predict(row: Row) -> int:
    """Predicted bytes of the row's own metric. Raises Refusal."""
    if row.measured_bytes is None:
        raise Refusal("no figure in a stated unit")
    if row.metric not in METRICS:
        raise Refusal("the metric is not stated")
    job, _ = job_of(row)
    tape = tape_of(job)
    result = replay(tape, expandable=job.behaviour.allocator == "expandable", capacity=_capacity(row))
    if METRICS[row.metric] == "allocated":
        return result.peak_allocated
    if METRICS[row.metric] == "reserved":
        return result.peak_reserved
    return result.peak_reserved + _context(row)


def _capacity(row: Row) -> int | None:
    """What the allocator may reserve: beyond it, it returns free segments. The row's own card, else the GPU's real size."""
    if row.card_bytes is not None:
        return row.card_bytes - (row.context_bytes or 0)
    mib = next((size for name, size in CARD_MIB.items() if name in row.gpu), None)
    return mib * 2**20 - _context(row) if mib is not None else None


def _context(row: Row) -> int:
    import re

    stated = re.search(r"(\d+(?:\.\d+)?) MiB of CUDA context", row.notes)
    if stated:
        return round(float(stated.group(1)) * 2**20)
    return Device.cuda(row.gpu, total_bytes=0).context_bytes


def job_of(row: Row) -> tuple[Job, Program]:
    """The job that the row describes. Raises Refusal when it is not described."""
    if row.length is None:
        raise Refusal("the sequence length is not fixed")
    if row.batch is None:
        raise Refusal("the micro batch is not stated")
    program = program_of(row)
    reason = program.unscored(row)
    if reason:
        raise Refusal(reason)
    several = row.gpus > 1 or row.parallelism not in {"", "none"}
    if several and not program.sharded:
        raise Refusal(f"{row.parallelism or 'several GPUs'} in this program is not modelled")
    shape, task = shape_named(row.model)
    job = Job(
        shape=shape,
        method=method_of(row, program),
        behaviour=program.behaviour(row),
        batch=row.batch,
        length=row.length,
        capability=Device.cuda(row.gpu, total_bytes=0).compute_capability,
        task=task,
        steps=program.steps,
        shards=row.gpus if several and "no_shard" not in row.parallelism.lower() else 1,
        offload="offload" in row.parallelism.lower(),
        replicas=row.gpus if "no_shard" in row.parallelism.lower() else 1,
    )
    return job, program


def method_of(row: Row, program: Program) -> Any:
    """The row's method as a recipe value; what the row leaves open is the program's default."""
    if row.method == "full":
        return FullMethod(type="full")
    targets = program.targets if row.targets == "all-linear" and program.targets else row.targets
    common = {"r": row.rank or program.rank, "target_modules": targets, "dropout": program.dropout}
    if row.quant in {"", "none"}:
        return LoraMethod(type="lora", **common)
    if "torchao" in row.quant:
        raise Refusal("torchao's NF4 is not modelled")
    if "8" in row.quant and "nf4" not in row.quant and "fp4" not in row.quant:
        if "float8" in row.quant or "fp8" in row.quant:
            raise Refusal("float8 compute is not modelled")
        return QloraMethod(type="qlora", quantization="int8", **common)
    stated = "double" in row.quant or "dq" in row.quant
    double = (stated and "no double" not in row.quant) or (not stated and program.double)
    kind = "fp4" if "fp4" in row.quant else "nf4"
    return QloraMethod(type="qlora", quantization=kind, double_quant=double, **common)


def shape_named(name: str) -> tuple[ModelShape, str]:
    """The model's shape and the task: ``bert-large-uncased (sequence classification head)`` says both."""
    extra = json.loads((HERE / "data" / "models.json").read_text("utf-8"))
    base = name.partition(" (")[0]
    task = "classification" if "classification" in name else ""
    base = extra["names"].get(base.lower(), base)
    if base in extra["configs"]:
        shape = shape_of(extra["configs"][base]["config"], source=extra["configs"][base]["source"])
    else:
        shape = find_shape(base, base_dir=HERE)
    if task:
        shape = with_classifier(shape)
    default = "masked_lm" if shape.family == "encoder" else "causal_lm"
    return shape, task or default


def with_classifier(shape: ModelShape) -> ModelShape:
    """The encoder with pooler and two-class classifier instead of its language-modelling head (BertForSequenceClassification)."""
    hidden = shape.hidden_size
    head = (
        Tensor("bert.pooler.dense.weight", (hidden, hidden), "linear"),
        Tensor("bert.pooler.dense.bias", (hidden,), "bias"),
        Tensor("classifier.weight", (2, hidden), "linear"),
        Tensor("classifier.bias", (2,), "bias"),
    )
    return replace(shape, head=head)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run/OOM outcome and what the capacity-limited replay says."""

    id: str
    outcome: str
    predicted: str
    right: bool
    reason: str = ""


def judge(row: Row) -> Verdict:
    """Whether the job runs within card - context."""
    if row.card_bytes is None:
        return Verdict(row.id, row.outcome, "none", right=False, reason="the card's size is not stated")
    try:
        job, _ = job_of(row)
        result = replay(tape_of(job), expandable=job.behaviour.allocator == "expandable", capacity=_capacity(row))
    except (Refusal, CloudtuneError) as refusal:
        return Verdict(row.id, row.outcome, "none", right=False, reason=str(refusal))
    predicted = "oom" if result.failed_at >= 0 else "completed"
    return Verdict(row.id, row.outcome, predicted, right=predicted == row.outcome)


def column(errors: list[float]) -> dict[str, float]:
    """n, median / mean / p90 / worst of the signed errors; all but the signed mean by size."""
    sizes = sorted(abs(error) for error in errors)
    worst = max(errors, key=abs)
    return {
        "n": len(errors),
        "median": median(sizes),
        "mean": mean(sizes),
        "signed_mean": mean(errors),
        "p90": sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        "worst": worst,
    }


def summarise(scored: list[Scored], verdicts: list[Verdict]) -> dict[str, Any]:
    """Per source and over all: the error columns per metric, the rows left out per reason, the verdicts."""
    groups: dict[str, list[Scored]] = {"all": scored}
    for item in scored:
        groups.setdefault(item.source, []).append(item)
    summary: dict[str, Any] = {}
    for name, items in groups.items():
        metrics = sorted({item.metric for item in items if item.scored})
        columns = {metric: column([item.error for item in items if item.metric == metric and item.error is not None]) for metric in metrics}
        summary[name] = {**columns, "scored": sum(item.scored for item in items), "not_scored": sum(not item.scored for item in items)}
    summary["verdicts"] = {"right": sum(item.right for item in verdicts), "of": len(verdicts)}
    return summary


def main(argv: list[str] | None = None) -> int:
    """Command line; exit 0 also when errors are large: this measures, tests judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--verdicts", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--programs", action="store_true", help="print every program's behaviour with its sources")
    parser.add_argument("--rows", action="store_true", help="print every scored row")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    scored = [score(row) for row in read_cases(options.cases)]
    verdicts = [judge(row) for row in read_verdicts(options.verdicts)] if options.verdicts else []
    seconds = time.perf_counter() - started
    summary = summarise(scored, verdicts)
    if options.json:
        print(json.dumps({"rows": _plain(scored, ROW_KEYS), "verdicts": _plain(verdicts, VERDICT_KEYS), "summary": summary}))
        return 0
    _print(scored, verdicts, summary, seconds, rows=options.rows)
    if options.programs:
        _print_programs()
    return 0


def _plain(items: Sequence[Scored | Verdict], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{key: getattr(item, key) for key in keys} for item in items]


def _print(scored: list[Scored], verdicts: list[Verdict], summary: dict[str, Any], seconds: float, *, rows: bool) -> None:
    if rows:
        for item in scored:
            if item.scored:
                print(f"{item.id}  {item.metric:14} {item.measured_bytes:>14,} {item.predicted_bytes:>14,} {item.error:+8.2%}")
    print(f"{'source':44} {'metric':14} {'n':>4} {'median':>8} {'mean':>8} {'p90':>8} {'worst':>8}")
    for name, group in summary.items():
        for metric, values in group.items():
            if isinstance(values, dict):
                print(
                    f"{name[:44]:44} {metric:14} {values['n']:4} {values['median']:8.2%} {values['mean']:8.2%} "
                    f"{values['p90']:8.2%} {values['worst']:+8.2%}"
                )
    reasons: dict[str, list[str]] = {}
    for item in scored:
        if not item.scored:
            reasons.setdefault(item.reason, []).append(item.id)
    print(f"\nscored {sum(item.scored for item in scored)} of {len(scored)} rows in {seconds:.1f} s; not scored:")
    for reason, ids in sorted(reasons.items(), key=lambda entry: -len(entry[1])):
        print(f"{len(ids):5}  {reason}  ({ids[0]}{' ...' if len(ids) > 1 else ''})")
    if verdicts:
        print(f"\nverdicts right: {summary['verdicts']['right']} of {summary['verdicts']['of']}")
        for verdict in verdicts:
            if not verdict.right:
                print(f"  {verdict.id}: {verdict.outcome}, predicted {verdict.predicted} {verdict.reason}")


def _print_programs() -> None:
    for program in PROGRAMS:
        print(f"\n{program.name}")
        for name, source in program.cited.items():
            print(f"  {name:24} {source}")


if __name__ == "__main__":
    sys.exit(main())
