"""Two machines of Vertex AI really train together on the stand-in: torchrun over CLUSTER_SPEC, data and base model from Cloud Storage."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cloudtune.job import JobState
from cloudtune.recipe.layout import Layout
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import status
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.track import track
from cloudtune.wire.gcs import Bucket
from tests.gcp_life import gcp_session, quick_scene
from tests.trainer.conftest import make_tokenizer
from tests.unit.gcp_builders import gcp_plan

pytestmark = [pytest.mark.full, pytest.mark.stack, pytest.mark.timeout(600)]  # a minute and a half of two cores each
STEPS = 30
TRAINING = {
    "max_steps": STEPS, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 5e-3, "warmup_ratio": 0.0, "save_steps": 5,
    "gradient_checkpointing": False, "fused_loss": False, "eval_steps": 30,
}  # fmt: skip
ROWS = "".join(json.dumps({"prompt": f"{number} + 1 =", "completion": f" {number + 1}"}) + "\n" for number in range(64))


def save_model(folder: Path) -> None:
    """A llama of 0.1 M weights, as transformers saves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(**sizes, **words, max_position_embeddings=256, tie_word_embeddings=True)).save_pretrained(folder)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with GcpStandin.start(tmp_path / "cloud", scene=quick_scene()) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.chdir(tmp_path)
        yield cloud


@pytest.fixture
def shelf(cloud, tmp_path):
    """A bucket of the user's with a base model and rows; its address."""
    cloud.store.make_bucket("their-shelf", cloud.scene.region.upper(), {})
    save_model(tmp_path / "model")
    bucket = Bucket("their-shelf", sleep=lambda _: None)
    for path in (tmp_path / "model").iterdir():
        bucket.write(f"models/tiny/{path.name}", path.read_bytes())
    bucket.write("rows/train.jsonl", ROWS.encode())
    return "gs://their-shelf"


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_machines_train_are_preempted_and_go_on(cloud, shelf, tmp_path, sharding):
    plan = gcp_plan(
        tmp_path / "data", purchase="spot", nodes=2, data=f"{shelf}/rows/train.jsonl",
        model={"base": f"{shelf}/models/tiny/", "dtype": "float32", "attention": "sdpa"}, training=TRAINING,
        method={"type": "lora", "r": 4, "alpha": 8},
    )  # fmt: skip
    layout = Layout(
        nodes=2, gpus=1, micro_batch_size=2, gradient_accumulation_steps=2, gradient_checkpointing=False, sharding=sharding
    )  # fmt: skip
    plan = plan.model_copy(update={"layout": layout})
    with gcp_session(tmp_path, cloud, mirror_seconds=0.3) as session:
        assert session.place("gcp").preflight.check(plan) == []
        launch(plan, session=session, launch_id="pair-abc")
        deadline = time.monotonic() + 200
        while (view := status("pair-abc", session)).progress is None or (view.progress.step or 0) < 6:
            assert time.monotonic() < deadline, f"{view.state}: {view.message}"
            assert not view.ended, view.message
            time.sleep(0.1)
        cloud.preempt("pair-abc")
        ended = list(track("pair-abc", session=session))[-1]
        told = [line.text for page in logs("pair-abc", session=session) for line in page.lines]
        assert ended.state is JobState.SUCCEEDED, "\n".join([ended.message, *told[-40:]])
        collected = collect("pair-abc", session=session)
    manifest = collected.manifest
    assert (manifest.steps, manifest.outcome) == (STEPS, "complete")
    assert (manifest.resumed_from_step or 0) >= 5
    pools = cloud.jobs("pair-abc")[0].body.job_spec.worker_pool_specs
    assert [int(pool.replica_count) for pool in pools] == [1, 1]
    assert {entry.task for entry in cloud.logs.entries if "container, start" in entry.text} == {"workerpool0-0", "workerpool1-0"}
    assert (collected.folder / "adapter/adapter_model.safetensors").stat().st_size > 1000
