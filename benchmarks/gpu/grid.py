"""A grid of real jobs on this machine's GPU: measured memory and speed beside what cloudtune says, one CSV row each.

    python benchmarks/gpu/grid.py --out rows.csv [--minutes 8] [--only WORDS] [--list] [--dry]

Each case is a job of the product itself: a model folder of the true shape with random weights, a recipe, ``cloudtune launch
--provider local``; what is written down is the manifest's measured peaks beside the plan's. Cases that are in the file are not
run again, so a slice of ``--minutes`` can follow another until ``--list`` shows nothing open. ``--dry`` runs two tiny cases on
the CPU and proves the plumbing, not the numbers. Without CUDA and without ``--dry`` it refuses.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
ROW_WORDS = 60
COLUMNS = (
    *("id", "model", "parameters", "method", "quantization", "checkpointing", "fused_loss", "micro_batch", "max_length"),
    *("gpu", "gpu_bytes", "driver", "torch", "transformers", "peft", "bitsandbytes", "cloudtune"),
    *("allocated_bytes", "reserved_bytes", "device_bytes", "host_rss_bytes", "context_bytes"),
    *("predicted_allocated_bytes", "predicted_reserved_bytes", "predicted_peak_bytes", "error_bar"),
    *("train_seconds", "tokens", "tokens_per_second", "predicted_tokens_per_second", "seconds", "date", "outcome"),
)
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


@dataclass(frozen=True, slots=True)
class Case:
    """One job: a model of the registry (or ``tiny``), a method, a layout."""

    model: str
    method: str
    quantization: str = ""
    checkpointing: bool = True
    fused_loss: bool = True
    micro_batch: int = 1
    max_length: int = 1024

    @property
    def id(self) -> str:
        words = [self.model.rpartition("/")[2], self.method + self.quantization, f"b{self.micro_batch}", f"s{self.max_length}"]
        return "-".join([*words, "ckpt" if self.checkpointing else "keep", "fused" if self.fused_loss else "logits"])


def grid() -> Iterator[Case]:
    """From small to large, so that the first slice already says something of every method."""
    for model in ("Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-4B", "meta-llama/Llama-3.1-8B"):
        for method, quantization in (("lora", ""), ("qlora", "nf4"), ("qlora", "int8"), ("full", "")):
            for checkpointing, fused in ((True, True), (True, False), (False, True)):
                for micro, length in ((1, 1024), (4, 1024), (1, 4096)):
                    yield Case(model, method, quantization, checkpointing, fused, micro, length)


def dry_grid() -> tuple[Case, ...]:
    """Two cases that a CPU does in seconds."""
    return Case("tiny", "lora", micro_batch=2, max_length=64), Case("tiny", "full", max_length=64)


def make_model(case: Case, folder: Path, *, cuda: bool) -> Path:
    """A model folder of the true shape with random weights and a tokenizer of single bytes; kept for the next case."""
    place = folder / case.model.replace("/", "--")
    if (place / "config.json").exists():
        return place
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**_config(case.model))
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if cuda else torch.float32)
    unfinished = folder / f".{place.name}"
    model.save_pretrained(unfinished)
    _byte_tokenizer().save_pretrained(unfinished)
    unfinished.rename(place)
    return place


def _config(model: str) -> dict[str, Any]:
    if model == "tiny":
        return {**LLAMA, **TINY, "vocab_size": 512, "max_position_embeddings": 256, "tie_word_embeddings": False}
    from cloudtune.models.registry import find_config

    return dict(find_config(model, base_dir=ROOT)[0])


def _byte_tokenizer() -> Any:
    """One token a byte and an end: fits every vocabulary, needs no download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate([*letters, "<|end|>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")  # noqa: S106 - a token, no secret


def write_recipe(case: Case, model: Path, folder: Path) -> Path:
    """The recipe of a case, and rows that fill its packed sequences."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    need = (STEPS + 2) * case.micro_batch * case.max_length * 2
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        written = rows = 0
        while written < need or rows < (STEPS + 2) * case.micro_batch:
            rows += 1
            text = " ".join(words[(written + place) % len(words)] for place in range(ROW_WORDS))
            written += file.write(json.dumps({"text": text}) + "\n")
    method: dict[str, Any] = {"type": case.method}
    if case.quantization:
        method["quantization"] = case.quantization
    recipe = {
        "version": 1,
        "name": "gpu-grid",
        "model": {"base": str(model)},
        "method": method,
        "data": {"train": [{"path": "./rows.jsonl", "format": "text"}], "max_length": case.max_length, "packing": True},
        "training": {
            "max_steps": STEPS,
            "batch_size": case.micro_batch,
            "micro_batch_size": case.micro_batch,
            "gradient_checkpointing": case.checkpointing,
            "fused_loss": case.fused_loss,
        },
        "output": {"dir": "./runs"},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return path


def run_case(case: Case, models: Path, *, cuda: bool, timeout: float) -> dict[str, Any]:
    """Plan and launch one case with the command itself; its row. ``outcome`` says what went wrong where something did."""
    started = time.monotonic()
    model = make_model(case, models, cuda=cuda)
    with tempfile.TemporaryDirectory(prefix="ct-grid-") as folder:
        place = Path(folder)
        recipe = write_recipe(case, model, place)
        plan = _command(["plan", recipe, "--provider", "local"], place, timeout)
        if "error" in plan:
            return _row(case, {}, None, outcome=f"plan: {plan['error']['what'][:200]}", seconds=time.monotonic() - started)
        ran = _command(["launch", recipe, "--provider", "local", "--yes"], place, timeout)
        if "error" in ran:
            return _row(case, plan, None, outcome=f"job: {ran['error']['what'][:200]}", seconds=time.monotonic() - started)
        return _row(case, plan, ran["collected"]["manifest"], outcome="complete", seconds=time.monotonic() - started)


def _command(arguments: Sequence[str | Path], folder: Path, timeout: float) -> dict[str, Any]:
    """One JSON object of the command. The grid has a ledger of its own, so nobody's plans learn from random weights."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDTUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "cloudtune", *map(str, arguments), "--json"]
    try:
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": {"what": f"took longer than {timeout:.0f} s"}}
    try:
        return dict(json.loads(ran.stdout))
    except ValueError:
        return {"error": {"what": f"exit {ran.returncode}: {ran.stderr[-300:]}"}}


def _row(case: Case, plan: Mapping[str, Any], manifest: Mapping[str, Any] | None, *, outcome: str, seconds: float) -> dict[str, Any]:
    memory, chosen, found = plan.get("memory", {}), plan.get("chosen", {}), manifest or {}
    peak, versions = found.get("peak_memory", {}), found.get("versions", {})
    held, reserved = peak.get("device_bytes"), peak.get("reserved_bytes")
    spent, tokens = found.get("train_seconds"), found.get("tokens")
    told = plan.get("training_seconds")
    return {
        **asdict(case),
        "id": case.id,
        "parameters": found.get("total_parameters"),
        "gpu": chosen.get("gpu"),
        "gpu_bytes": chosen.get("gpu_bytes"),
        "driver": _driver(),
        **{name: versions.get(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "cloudtune")},
        **{name: peak.get(name) for name in ("allocated_bytes", "reserved_bytes", "device_bytes", "host_rss_bytes")},
        "context_bytes": held - reserved if held and reserved else None,
        "predicted_allocated_bytes": memory.get("allocated_bytes"),
        "predicted_reserved_bytes": memory.get("reserved_bytes"),
        "predicted_peak_bytes": memory.get("peak_bytes"),
        "error_bar": memory.get("error_bar"),
        "train_seconds": spent,
        "tokens": tokens,
        "tokens_per_second": round(tokens / spent, 1) if tokens and spent else None,
        "predicted_tokens_per_second": round(tokens / told, 1) if tokens and told else None,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "outcome": outcome,
    }


def _driver() -> str:
    """The driver's version, as nvidia-smi says it; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ran.stdout.split("\n")[0].strip()


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def done_ids(out: Path) -> set[str]:
    """Cases that the file has, whatever their outcome."""
    if not out.exists():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {row["id"] for row in csv.DictReader(file)}


def append(out: Path, row: Mapping[str, Any]) -> None:
    """One more row, on the disk when this returns: a slice that is cut off loses only the case at work."""
    new = not out.exists()
    with out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({name: "" if row[name] is None else row[name] for name in COLUMNS})
        file.flush()
        os.fsync(file.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a slice; 0 = nothing is open any more, 3 = time is up and cases are left, 2 = no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-rows.csv"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", default="", help="cases with this in their id")
    parser.add_argument("--models", type=Path, help="folder for the random models (default: a temporary one)")
    parser.add_argument("--list", action="store_true", help="show the open cases and run nothing")
    parser.add_argument("--dry", action="store_true", help="two tiny cases on the CPU")
    asked = parser.parse_args(arguments)
    wanted = [case for case in (dry_grid() if asked.dry else grid()) if asked.only in case.id]
    open_cases = [case for case in wanted if case.id not in done_ids(asked.out)]
    if asked.list:
        print("\n".join(case.id for case in open_cases))
        return 0
    if not asked.dry and not has_cuda():
        print("this machine has no CUDA device that torch can use; --dry proves the plumbing on the CPU", file=sys.stderr)
        return 2
    end = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="ct-models-") as temporary:
        models = asked.models or Path(temporary)
        models.mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(open_cases):
            if time.monotonic() >= end:
                print(f"{len(open_cases) - number} cases are left; run it again", file=sys.stderr)
                return 3
            row = run_case(case, models, cuda=not asked.dry, timeout=max(60.0, end - time.monotonic()))
            append(asked.out, row)
            print(f"{case.id}: {row['outcome']}, {row['seconds']} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
