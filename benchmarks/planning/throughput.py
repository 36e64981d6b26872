"""Score the time model on published training speeds, or fit its constants to two thirds of them.

    python benchmarks/planning/throughput.py                # the table, as docs/accuracy.md has it
    python benchmarks/planning/throughput.py --write        # renew that table in docs/accuracy.md
    python benchmarks/planning/throughput.py --json         # one object: rows and summary
    python benchmarks/planning/throughput.py --fit          # find the constants again (half a minute)

A row is held out of the fit when sha256("cloudtune-throughput-1:" + id) is divisible by three: fixed, and blind to the score.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import statistics
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cloudtune.planning import duration  # noqa: E402 - the checkout first, whatever is installed
from cloudtune.planning.duration import Constants, Machine, ModelNumbers, Task  # noqa: E402
from cloudtune.planning.speeds import gpu_speed, wires  # noqa: E402
from cloudtune.recipe.layout import Layout  # noqa: E402

ROWS = ROOT / "cloudtune" / "planning" / "data" / "throughput.csv"
ACCURACY = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- throughput: begin (made by benchmarks/planning/throughput.py --write) -->", "<!-- throughput: end -->"
SEED = "cloudtune-throughput-1:"
LARGEST = {"products": 0.75, "link": 0.8, "compiled": 1.0}  # a fraction above these would be no physical speed
RANK = 16  # of the adapters: no row's time depends on it noticeably


@dataclass(frozen=True)
class Row:
    """One published measurement; ``excluded`` says why it cannot be scored."""

    id: str
    source: str
    locator: str
    gpu: str
    model: ModelNumbers
    task: Task
    layout: Layout
    measured: float | None
    excluded: str

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256((SEED + self.id).encode()).hexdigest(), 16) % 3 == 0


def read_rows(path: Path = ROWS) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Row:
    layout = Layout(
        nodes=int(values["nodes"]),
        gpus=int(values["gpus"]),
        micro_batch_size=int(values["micro_batch"]),
        gradient_accumulation_steps=int(values["accumulation"]),
        gradient_checkpointing=values["checkpointing"] == "yes",
        sharding=values["sharding"],
    )
    model = _model(values)
    adapter = model.layers * RANK * (8 * model.hidden + 3 * int(values["intermediate"]))
    trained = model.parameters if values["method"] == "full" else adapter
    task = Task(values["method"], int(values["length"]), trained, kernels=values["kernels"])
    return Row(
        values["id"], values["source"], values["locator"], values["gpu"], model, task, layout, _measured(values, layout), values["excluded"]
    )


def _model(values: dict[str, str]) -> ModelNumbers:
    hidden, layers, vocab = int(values["hidden"]), int(values["layers"]), int(values["vocab"])
    queries = int(values["heads"]) * int(values["head_dim"])
    keys = int(values["kv_heads"]) * int(values["head_dim"])
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * int(values["intermediate"])
    stack = layer * layers
    return ModelNumbers(layers, hidden, stack, hidden * vocab, queries * layers, stack, stack, stack + 2 * hidden * vocab)


def _measured(values: dict[str, str], layout: Layout) -> float | None:
    """Tokens per second of the whole job."""
    if values["measure"] == "tokens_per_second":
        return float(values["value"])
    if values["measure"] == "seconds_per_step":
        return layout.batch_size * int(values["length"]) / float(values["value"])
    return None


def predicted(row: Row, constants: Constants) -> float:
    """Tokens per second of the whole job."""
    network = 3200.0 if row.gpu == "H100" else None  # DGX H100: eight 400 Gbit/s adapters
    words = {"A100-80GB": "NVLink 600 GB/s", "H100": "NVLink 900 GB/s"}.get(row.gpu, "PCIe Gen4")
    tokens = row.layout.micro_batch_size * row.task.sequence_tokens
    machine = Machine(gpu_speed(row.gpu), wires(words, network))
    seconds = duration.step_seconds(row.model, row.task, row.layout, tokens, machine, constants=constants)
    return row.layout.batch_size * row.task.sequence_tokens / seconds


def ratio(row: Row, constants: Constants) -> float:
    """Predicted time ÷ measured time: above 1 the model is too careful, below 1 it promises too much."""
    assert row.measured is not None
    return row.measured / predicted(row, constants)


def factor(value: float) -> float:
    return max(value, 1 / value)


def fit(rows: list[Row]) -> Constants:
    """Coordinate descent on the mean absolute log error, each row's error capped at e so that no outlier rules."""
    names = [field.name for field in fields(Constants)]

    def loss(constants: Constants) -> float:
        return statistics.fmean(min(abs(math.log(ratio(row, constants))), 1.0) for row in rows)

    best, step = duration.FITTED, dict.fromkeys(names, 0.3)
    score = loss(best)
    while max(step.values()) > 1e-3:
        for name in names:
            for sign in (1, -1):
                value = getattr(best, name) * math.exp(sign * step[name])
                trial = replace(best, **{name: min(value, LARGEST.get(name, math.inf))})
                if loss(trial) < score - 1e-7:
                    best, score = trial, loss(trial)
                    break
            else:
                step[name] *= 0.7
    return best


def summary(rows: list[Row]) -> dict[str, dict[str, object]]:
    """n, median, ninth decile and worst factor, for all scored rows, those fitted and those held out."""
    parts = {"all": rows, "fitted": [row for row in rows if not row.held_out], "held out": [row for row in rows if row.held_out]}
    found: dict[str, dict[str, object]] = {}
    for name, part in parts.items():
        ordered = sorted(part, key=lambda row: factor(ratio(row, duration.FITTED)))
        factors = [factor(ratio(row, duration.FITTED)) for row in ordered]
        found[name] = {
            "n": len(part),
            "median": round(statistics.median(factors), 3),
            "p90": round(factors[int(0.9 * len(factors))], 3),
            "worst": round(factors[-1], 3),
            "worst_id": ordered[-1].id,
        }
    return found


def table(rows: list[Row]) -> str:
    scored = [row for row in rows if not row.excluded]
    lines = ["| rows | n | median | 9 of 10 within | worst |", "|---|---|---|---|---|"]
    for name, values in summary(scored).items():
        lines.append(f"| {name} | {values['n']} | {values['median']} x | {values['p90']} x | {values['worst']} x ({values['worst_id']}) |")
    lines += [
        "",
        "| row | GPU | layout | measured tok/s | predicted tok/s | predicted ÷ measured time | fit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(scored, key=lambda row: factor(ratio(row, duration.FITTED)), reverse=True):
        guess, value = predicted(row, duration.FITTED), ratio(row, duration.FITTED)
        where = f"{row.layout.data_parallel} x {row.gpu}"
        how = f"{row.task.method}, {row.layout.micro_batch_size} x {row.task.sequence_tokens}"
        lines.append(
            f"| {row.id} | {where} | {how} | {row.measured:,.0f} | {guess:,.0f} | {value:.2f} | {'held out' if row.held_out else 'yes'} |"
        )
    lines += ["", "Listed, not scored:", "", "| row | source | why |", "|---|---|---|"]
    lines += [f"| {row.id} | {row.source} | {row.excluded} |" for row in rows if row.excluded]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--write", "--json", "--fit"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    rows = read_rows()
    scored = [row for row in rows if not row.excluded]
    if asked.fit:
        print(fit([row for row in scored if not row.held_out]))
    elif asked.json:
        body = [
            {
                "id": row.id,
                "measured": row.measured,
                "predicted": None if row.excluded else predicted(row, duration.FITTED),
                "held_out": row.held_out,
                "excluded": row.excluded,
            }
            for row in rows
        ]
        print(json.dumps({"rows": body, "summary": summary(scored)}, indent=1))
    elif asked.write:
        text = ACCURACY.read_text(encoding="utf-8")
        head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        ACCURACY.write_text(f"{head}\n{table(rows)}\n{tail}", encoding="utf-8")
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
