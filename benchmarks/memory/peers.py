"""Side by side on the same rows: cloudtune and four other estimators, each in a throwaway virtual environment.

    python benchmarks/memory/peers.py CASES.csv [--venvs FOLDER] [--rounds 3] [--json]

Installs fitcheck-llm, canifinetune and llm-analysis from the package index into FOLDER (default: a temporary one); accelerate
is the one of this environment. Only the peers' programs are run; their archives of measurements are never read. Every peer
gets the row's own numbers; a row that it refuses counts as refused, never as an error of zero. Below each peer stands cloudtune
on the very rows that the peer answered, as who refuses the hard rows has smaller errors.

The command-line time is processor time (user + system) of a fresh process that answers one question of the rows, the median of
the rounds, all programs in turn in each round. Ours is the whole command ``cloudtune estimate MODEL --json``, which answers for four
methods and finds a card for each; canifinetune's is its whole command with ``--offline``. The other peers' commands ask the hub for
the model's config, which would be timed too: their process imports them and calls what their own command calls.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from statistics import mean, median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import published  # noqa: E402
from rows import Row, read_cases  # noqa: E402

PEERS = {"fitcheck-llm": "fitcheck-llm==0.3.1", "canifinetune": "canifinetune==0.4.1", "llm-analysis": "llm-analysis==0.2.2"}
INSTALL_SECONDS = 900
# the package folder that torch is in, which is another one where this environment borrows itself
BORROWED = "".join(f"{path}\n" for path in sys.path if path.endswith("site-packages"))
OURS = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of the peer's own environment, made when missing. What this environment has (torch) is borrowed."""
    place = folder / peer
    if not (place / "complete").exists():
        venv.create(place, with_pip=True, clear=True)
        for site in (place / "lib").glob("python*/site-packages"):
            (site / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{BORROWED}")
        command = [place / "bin" / "python", "-m", "pip", "install", "-q", PEERS[peer]]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=INSTALL_SECONDS)
        (place / "complete").touch()
    return place / "bin" / "python"


def installable(folder: Path) -> list[str]:
    """The peers that are there or could be installed; the others are named on stderr."""
    found = []
    for peer in PEERS:
        try:
            environment(peer, folder)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{peer} cannot be installed here: {error}", file=sys.stderr)
        else:
            found.append(peer)
    return found


def question(row: Row) -> dict[str, Any]:
    """What a peer is told: the row's job and the shape of its model."""
    shape, _ = published.shape_named(row.model)
    attention, mlp = shape.blocks[0].attention, shape.blocks[0].mlp
    assert attention is not None
    return {
        "id": row.id,
        "model": row.model,
        "family": shape.family,
        "parameters": shape.parameters,
        "hidden": shape.hidden_size,
        "layers": shape.num_layers,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "width": mlp.width,
        "vocabulary": shape.vocab_size,
        "tied": shape.tied,
        "method": row.method,
        "quant": "none" if row.quant in {"", "none"} else "int8" if "int8" in row.quant else "nf4",
        "double": "double" in row.quant and "no double" not in row.quant,
        "rank": row.rank,
        "targets": row.targets,
        "length": row.length,
        "batch": row.batch,
        "checkpointing": not row.checkpointing.startswith("no"),
        "eager": row.attention.startswith("eager"),
        "optimizer": row.optimizer,
        "dtype": "fp16" if "fp16" in row.dtype else "bf16" if "bf16" in row.dtype else "fp32",
        "gpu": row.gpu,
    }


def ask(interpreter: Path, adapter: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    """Run a peer's adapter over all questions; {"answers": {id: {"allocated", "reserved", "device"} | {"refused"}}, "seconds"}."""
    script = HERE / "adapters" / f"{adapter}.py"
    done = subprocess.run([interpreter, script], input=json.dumps(questions), capture_output=True, text=True, check=True, timeout=600)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ours(rows: list[Row]) -> dict[str, Any]:
    """cloudtune's answers in the same form."""
    answers: dict[str, Any] = {}
    started = time.perf_counter()
    for row in rows:
        scored = published.score(row)
        metric = published.METRICS[row.metric]
        answers[row.id] = {metric: scored.predicted_bytes}
    return {"answers": answers, "seconds": (time.perf_counter() - started) / max(1, len(rows))}


def process_seconds(command: list[Any], text: str) -> float:
    """Processor time of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=600, cwd=HERE.parents[1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_lines(folder: Path, row: Row, rounds: int, peers: list[str]) -> dict[str, float]:
    """Seconds of each program's process for one question."""
    one = json.dumps([question(row)])
    commands: dict[str, list[Any]] = {"cloudtune": [sys.executable, "-m", "cloudtune", "estimate", OURS, "--json"]}
    commands |= {peer: [environment(peer, folder), HERE / "adapters" / f"{peer.replace('-', '_')}.py"] for peer in peers}
    if "canifinetune" in peers:
        own = environment("canifinetune", folder).with_name("canifinetune")
        commands["canifinetune"] = [own, "estimate", "--model", OURS, "--gpu-vram-gb", "16", "--offline", "--json"]
    commands["accelerate"] = [sys.executable, HERE / "adapters" / "accelerate_estimate.py"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = process_seconds(command, one)
            if number:  # the first round warms bytecode and disk
                times[name].append(seconds)
    return {name: median(found) for name, found in times.items()}


def columns(rows: list[Row], answers: dict[str, Any]) -> dict[str, Any]:
    """Errors per metric: n, refused, median, mean and worst of |error|, worst under-prediction."""
    found: dict[str, Any] = {}
    for metric, key in published.METRICS.items():
        wanted = [row for row in rows if row.metric == metric]
        errors = []
        for row in wanted:
            predicted = answers.get(row.id, {}).get(key)
            if predicted is not None and row.measured_bytes:
                errors.append(predicted / row.measured_bytes - 1)
        if not wanted:
            continue
        sizes = [abs(error) for error in errors]
        found[metric] = {
            "rows": len(wanted),
            "answered": len(errors),
            "median": median(sizes) if sizes else None,
            "mean": mean(sizes) if sizes else None,
            "worst": max(sizes) if sizes else None,
            "worst_under": min([0.0, *errors]),
        }
    return found


def answered(rows: list[Row], answers: dict[str, Any]) -> list[Row]:
    """The rows whose number an estimator gave."""
    return [row for row in rows if answers.get(row.id, {}).get(published.METRICS.get(row.metric)) is not None]


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows = [row for row in read_cases(options.cases) if published.score(row).scored]
    questions = [question(row) for row in rows]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.venvs or Path(temporary)
        table = {"cloudtune": ours(rows)}
        peers = installable(folder)
        for peer in peers:
            table[peer] = ask(environment(peer, folder), peer.replace("-", "_"), questions)
        table["accelerate"] = ask(Path(sys.executable), "accelerate_estimate", questions)
        processes = command_lines(folder, rows[0], options.rounds, peers)
    result = {
        name: {"seconds": answer["seconds"], "process_seconds": processes[name], **columns(rows, answer["answers"])}
        for name, answer in table.items()
    }
    same = {
        name: columns(answered(rows, answer["answers"]), table["cloudtune"]["answers"])
        for name, answer in table.items()
        if name != "cloudtune"
    }
    if options.json:
        print(json.dumps(result | {"cloudtune on the rows that were answered by": same}))
        return 0
    heads = ("rows", "answered", "median", "mean", "worst", "under", "ms each", "process")
    print(f"{'estimator':14} {'metric':14} " + " ".join(f"{head:>8}" for head in heads))
    for name, answer in result.items():
        times = f"{answer['seconds'] * 1e3:8.1f} {answer['process_seconds']:6.2f} s"
        for metric in (metric for metric in published.METRICS if metric in answer):
            print(f"{name:14} {line(metric, answer[metric])} {times}")
            if metric in same.get(name, {}):
                print(f"{'  cloudtune':14} {line(metric, same[name][metric])}")
    return 0


def line(metric: str, values: dict[str, Any]) -> str:
    """One metric's columns as text."""
    shown = (f"{values[key]:8.1%}" if values[key] is not None else f"{'-':>8}" for key in ("median", "mean", "worst", "worst_under"))
    return f"{metric:14} {values['rows']:8} {values['answered']:8} {' '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
