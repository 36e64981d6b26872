"""Makes job folders for the trainer's tests: a JobFile, its data and its base model, laid out as the launcher does it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtune.manifest import Manifest, MetricsRow
from cloudtune.recipe.layout import Layout
from cloudtune.recipe.resolved import Channel, JobFile
from cloudtune.recipe.spec import DataSource, Recipe
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.surroundings import StopSign

LORA = {"type": "lora", "r": 4, "alpha": 8}
NF4 = {"type": "qlora", "r": 4, "alpha": 8}
FP4 = {**NF4, "quantization": "fp4", "double_quant": False}
INT8 = {**NF4, "quantization": "int8"}
FULL = {"type": "full"}

INSTRUCTIONS = [
    {"instruction": f"What is {number} plus one?", "input": "Count." if number % 3 else "", "output": f"It is {number + 1}."}
    for number in range(24)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {number}"},
            {"role": "assistant", "content": f"Here: {number}"},
            {"role": "user", "content": "Again"},
            {"role": "assistant", "content": f"Still {number}, as before"},
        ]
    }
    for number in range(16)
]
COMPLETIONS = [{"prompt": f"def f{number}(x): ", "completion": f"return x + {number}"} for number in range(16)]
TEXTS = [{"text": f"The module number {number} returns the object of the class. " * (1 + number % 3)} for number in range(16)]
ROWS = {"instruction": INSTRUCTIONS, "chat": CHATS, "completion": COMPLETIONS, "text": TEXTS}


def job_file(
    rows_format: str = "instruction",
    *,
    task: str = "causal_lm",
    method: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    output: dict[str, Any] | None = None,
    micro: int = 4,
    workers: int = 1,
    nodes: int = 1,
    sharding: str = "ddp",
    offload: bool = False,
    max_seconds: int | None = None,
) -> JobFile:
    """A job on the CPU with a local base model under ``model/`` and one data file; 6 steps of 8 rows unless told otherwise.

    ``workers`` are per node.
    """
    source = DataSource(path="train/0-rows.jsonl", format=rows_format)
    settings = {
        "max_steps": 6,
        "batch_size": 8,
        "micro_batch_size": micro,
        "learning_rate": 5e-3,
        "warmup_ratio": 0.0,
        "gradient_checkpointing": False,
        "fused_loss": False,
        "save_steps": 3,
        "eval_steps": 3,
        **(training or {}),
    }
    template = {"chat_template": "chatml"} if rows_format == "chat" else {}
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "name": "test",
            "model": {"base": "model", "dtype": "float32", "attention": "sdpa"},
            "task": task,
            "method": method or LORA,
            "data": {"train": [source.model_dump()], "eval": 0.2, "max_length": 64, **template, **(data or {})},
            "training": settings,
            "output": output or {},
        }
    )
    layout = Layout(
        nodes=nodes,
        gpus=workers if workers > 1 else 0,
        micro_batch_size=micro,
        gradient_accumulation_steps=settings["batch_size"] // micro // workers // nodes,
        gradient_checkpointing=settings["gradient_checkpointing"],
        sharding=sharding if workers * nodes > 1 else "none",
        cpu_offload=offload,
    )
    train = (Channel(path=source.path, source=source),)
    return JobFile(
        cloudtune_version="test", recipe=recipe, layout=layout, device="cpu", model_path="model", train=train, max_seconds=max_seconds
    )


@dataclass(frozen=True)
class Root:
    """A laid-out job folder."""

    job: JobFile
    paths: Paths

    def train(self, stop: StopSign | None = None) -> str:
        """Run the trainer in this process."""
        from cloudtune_trainer.train import train

        return train(self.job, self.paths, stop or StopSign())

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json(self.paths.manifest.read_bytes())

    @property
    def metrics(self) -> list[MetricsRow]:
        return [MetricsRow.model_validate_json(line) for line in self.paths.metrics.read_text().splitlines()]

    @property
    def weights(self) -> bytes:
        """The trained weights' file."""
        adapter = self.paths.model / "adapter" / "adapter_model.safetensors"
        return (adapter if adapter.exists() else self.paths.model / "full" / "model.safetensors").read_bytes()


def lay_out(folder: Path, job: JobFile, base: Path, rows: list[dict[str, Any]] | None = None) -> Root:
    """Write ``job`` with its data below ``folder``; the base is linked, as the local provider does."""
    inputs = folder / "input" / "data"
    (inputs / "job").mkdir(parents=True)
    (inputs / "model").symlink_to(base)
    channels = []
    for channel in job.train:
        path = inputs / channel.path
        path.parent.mkdir(exist_ok=True)
        content = "".join(json.dumps(row) + "\n" for row in (rows or ROWS[channel.source.format]))
        path.write_text(content)
        channels.append(channel.model_copy(update={"sha256": hashlib.sha256(content.encode()).hexdigest()}))
    written = job.model_copy(update={"train": tuple(channels)})
    (inputs / "job" / "job.json").write_text(written.model_dump_json(indent=2))
    return Root(written, Paths(root=folder, cache=folder / "cache", launch_id="test-abcdefghjk"))


class StopAfter(StopSign):
    """Goes up by itself after it was looked at ``looks`` times between steps."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        super().__init__()

    @property
    def up(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    @up.setter
    def up(self, value: bool) -> None:
        pass
