"""Score the memory reckoning against published measurements.

    python benchmarks/memory/published.py CASES.csv [--verdicts VERDICTS.csv] [--json] [--programs]

Every row of the file is accounted for: scored, or listed with the reason why not. Errors are predicted / measured - 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from names import shape_named  # noqa: E402
from programs import PROGRAMS, Program, program_of  # noqa: E402
from pydantic import ValidationError  # noqa: E402
from rows import Row, read_cases, read_verdicts  # noqa: E402

from cloudtune.errors import CloudtuneError  # noqa: E402
from cloudtune.memory.allocator import replay  # noqa: E402
from cloudtune.memory.device import Device  # noqa: E402
from cloudtune.memory.inventory import is_target, output_name  # noqa: E402
from cloudtune.memory.program import Job, tape_of  # noqa: E402
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod  # noqa: E402

# Real sizes as torch's out-of-memory messages print them ("23.65 GiB total capacity" for an RTX 4090).
CARD_MIB = {"T4": 14912, "4080": 16376, "3090": 24258, "4090": 24217, "V100-SXM2-16GB": 16160}
ROW_KEYS = ("id", "metric", "measured_bytes", "predicted_bytes", "error", "scored", "reason")
VERDICT_KEYS = ("id", "outcome", "predicted", "right")
MOST_TOKENS = 1 << 22
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
        reason = reason_of(refusal)
        return Scored(row.id, row.source, row.metric, row.measured_bytes, None, None, scored=False, reason=reason)
    assert row.measured_bytes is not None
    error = predicted / row.measured_bytes - 1
    return Scored(row.id, row.source, row.metric, row.measured_bytes, predicted, error, scored=True, reason="")


def reason_of(refusal: Refusal | CloudtuneError) -> str:
    """One line."""
    return refusal.what if isinstance(refusal, CloudtuneError) else str(refusal)


def predict(row: Row) -> int:
    """Predicted bytes of the row's own metric. Raises Refusal."""
    if row.measured_bytes is None:
        raise Refusal("no figure in a stated unit")
    if row.metric not in METRICS:
        raise Refusal("the metric is not stated")
    job, _ = job_of(row)
    tape, expandable = tape_of(job), job.behaviour.allocator == "expandable"
    result = replay(tape, expandable=expandable, capacity=_capacity(row))
    if result.failed_at >= 0:  # it was measured, so it ran: then the whole run, beyond the card
        result = replay(tape, expandable=expandable)
    if METRICS[row.metric] == "allocated":
        return result.peak_allocated
    if METRICS[row.metric] == "reserved":
        return result.peak_reserved
    return result.peak_reserved + _context(row)


def _capacity(row: Row) -> int | None:
    """What the allocator may reserve: beyond it, it returns free segments. The row's own card, else the GPU's real size."""
    card = row.card_bytes
    if card is None:
        card = next((size * 2**20 for name, size in CARD_MIB.items() if name in row.gpu), None)
    return card - _context(row) if card is not None else None


def _context(row: Row) -> int:
    """What the row itself says, else the measured or class value of the GPU."""
    if row.context_bytes is not None:
        return row.context_bytes
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
    if not 0 < row.batch * row.length <= MOST_TOKENS:
        raise Refusal("a micro batch of this many tokens is not modelled")
    program = program_of(row)
    reason = program.unscored(row)
    if reason:
        raise Refusal(reason)
    several = row.gpus > 1 or row.parallelism not in {"", "none"}
    if several and not program.sharded:
        raise Refusal(f"{row.parallelism or 'several GPUs'} in this program is not modelled")
    shape, task = shape_named(row.model)
    method = method_of(row, program)
    linear = (name for name, tensor in shape.modules() if tensor.kind == "linear" and name != output_name(shape))
    if isinstance(method, LoraMethod) and not any(is_target(name.removesuffix(".weight"), method.target_modules) for name in linear):
        raise Refusal("no layer of this model has the names of the targets")
    job = Job(
        shape=shape,
        method=method,
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
    if row.method not in {"lora", "qlora", "dora", "qdora"}:
        raise Refusal(f"the method {row.method!r} is not modelled" if row.method else "the method is not stated")
    try:
        return _adapter_method(row, program)
    except ValidationError as error:
        raise Refusal(f"the method cannot be read: {error.errors()[0]['msg']}") from error


def _adapter_method(row: Row, program: Program) -> LoraMethod:
    targets = program.targets if row.targets == "all-linear" and program.targets else row.targets
    rank = row.rank if row.rank is not None else program.rank
    common: dict[str, Any] = {"r": rank, "target_modules": targets, "dropout": program.dropout, "use_dora": "dora" in row.method}
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
    capacity = _capacity(row)
    if capacity is None:
        return Verdict(row.id, row.outcome, "none", right=False, reason="the card's size is not stated")
    try:
        job, _ = job_of(row)
        result = replay(tape_of(job), expandable=job.behaviour.allocator == "expandable", capacity=capacity)
    except (Refusal, CloudtuneError) as refusal:
        return Verdict(row.id, row.outcome, "none", right=False, reason=reason_of(refusal))
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
    try:
        cases, outcomes = read_cases(options.cases), read_verdicts(options.verdicts) if options.verdicts else []
    except (OSError, csv.Error) as error:
        print(f"the rows cannot be read: {error}", file=sys.stderr)
        return 2
    scored, verdicts = [score(row) for row in cases], [judge(row) for row in outcomes]
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
