"""The demo for real, shortened: the quickstart recipe is trained on this machine by the command, and the adapter is what it says.

The checks of the adapter run in processes of their own; one of them is a plain transformers and peft program that
shares no line with the trainer.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import QUICKSTART, ROOT, Ran, cloudtune

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

STEPS = 40

PLAIN_PROGRAM = """
import json, sys
from pathlib import Path
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

run = Path(sys.argv[1])
where = json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
four_bits = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)
base = AutoModelForCausalLM.from_pretrained(where, quantization_config=four_bits, dtype=torch.float32, device_map={"": "cpu"})
model = PeftModel.from_pretrained(base, run / "adapter").eval()

@torch.no_grad()
def loss():
    nats, tokens = 0.0, 0
    for line in (run / "eval_set.jsonl").read_text().splitlines():
        row = json.loads(line)
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        labels = torch.tensor(row["labels"][1:])
        learned = labels != -100
        nats -= float(torch.log_softmax(logits, -1)[learned].gather(1, labels[learned][:, None]).sum())
        tokens += int(learned.sum())
    return nats / tokens

with_adapter = loss()
with model.disable_adapter():
    without = loss()
print(json.dumps({"with_adapter": with_adapter, "without": without}))
"""


@dataclass(frozen=True)
class Demo:
    """The finished demo: its folder, the environment it ran in, and what the command printed."""

    folder: Path
    environment: dict[str, str]
    ran: Ran

    def cloudtune(self, *arguments: str | Path) -> Ran:
        return cloudtune(*arguments, folder=self.folder, env=self.environment)

    @property
    def run_folder(self) -> Path:
        (found,) = (self.folder / "runs").iterdir()
        return found

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.run_folder / "manifest.json").read_text())
        return manifest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    environment = {
        "CLOUDTUNE_HOME": str(folder / "home"),
        "CLOUDTUNE_CACHE": str(shared_cache),
        "CLOUDTUNE_CONFIG": str(folder / "none.toml"),
        "HF_HUB_OFFLINE": "1",
    }
    work = folder / "work"
    work.mkdir()
    ran = cloudtune(
        "launch",
        QUICKSTART,
        "--provider",
        "local",
        "--yes",
        "--set",
        f"training.max_steps={STEPS}",
        folder=work,
        env=environment,
        timeout=900,
    )
    assert ran.code == 0, ran.err + ran.out
    return Demo(work, environment, ran)


def test_it_trains_and_the_loss_falls(demo: Demo) -> None:
    manifest = demo.manifest
    assert manifest["outcome"] == "complete"
    assert manifest["steps"] == STEPS
    assert manifest["eval_loss_after"] < manifest["eval_loss_before"] - 0.3
    assert manifest["eval_rows"] == 150
    assert (demo.run_folder / "adapter" / "adapter_model.safetensors").stat().st_size > 100_000


def test_it_says_what_it_did(demo: Demo) -> None:
    assert re.search(r"eval loss +\d\.\d{4} before, \d\.\d{4} after \(-\d+\.\d%\), on 150 rows held out", demo.ran.out)
    assert re.search(r"peak memory +\d+ MiB measured, \d+ MiB predicted", demo.ran.out)
    assert f"runs/{demo.run_folder.name}/adapter" in demo.ran.out
    assert re.search(rf"running: train, step \d+/{STEPS}, loss \d", demo.ran.out)
    assert "\x1b" not in demo.ran.out + demo.ran.err
    assert "\r" not in demo.ran.out + demo.ran.err


def test_the_job_can_be_looked_at_afterwards(demo: Demo) -> None:
    (job,) = demo.cloudtune("ps", "--json").json["jobs"]
    assert {"id": demo.run_folder.name, "state": "collected", "provider": "local", "recipe": "quickstart"}.items() <= job.items()
    status = demo.cloudtune("status", "quickstart", "--json").json
    assert status["collected_to"] == str(demo.run_folder)
    log = demo.cloudtune("logs", "last")
    assert log.code == 0
    assert log.out.count("\n") > 5
    again = demo.cloudtune("collect", "last", "--to", "again", "--json").json
    assert sorted(again["files"]) == sorted([*(artifact["path"] for artifact in demo.manifest["artifacts"]), "manifest.json"])
    assert (demo.folder / "again" / "adapter" / "adapter_model.safetensors").read_bytes() == (
        demo.run_folder / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def in_a_new_process(demo: Demo, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, **demo.environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'containers' / 'trainer'}"}
    ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return answer


def test_a_plain_peft_program_reproduces_the_manifest(demo: Demo) -> None:
    answer = in_a_new_process(demo, "-c", PLAIN_PROGRAM, str(demo.run_folder))
    assert answer["with_adapter"] == pytest.approx(demo.manifest["eval_loss_after"], abs=1e-4)
    assert answer["without"] == pytest.approx(demo.manifest["eval_loss_before"], abs=1e-4)
    assert answer["without"] - answer["with_adapter"] > 0.3, "the adapter must differ from the base"


def test_the_trainers_own_evaluation_reproduces_the_manifest(demo: Demo) -> None:
    answer = in_a_new_process(demo, "-m", "cloudtune_trainer.evaluate", str(demo.run_folder), "--json")
    assert answer["difference"] <= 1e-4
    assert answer["base_loss"] > answer["eval_loss"]


def test_measured_memory_is_kept_beside_the_prediction(demo: Demo) -> None:
    peak = demo.manifest["peak_memory"]["host_rss_bytes"]
    assert peak > 100 * 2**20
    assert demo.manifest["predicted_peak_bytes"] == pytest.approx(peak, rel=0.6)
