"""A model spread over two workers learns what one worker learns, keeps and resumes its shards, and leaves plain artifacts."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from test_process import start, wait_for_step
from trainer_jobs import FULL, LORA, NF4, Root, job_file

pytestmark = pytest.mark.stack
QUIET = {"save_steps": 100, "eval_steps": 3}


def sharded(root: Any, **settings: Any) -> Root:
    return root(job_file(micro=2, workers=2, sharding="fsdp", **settings))


def run(made: Root, *command: str, code: int = 0, **environment: str) -> Root:
    assert start(made, *command, **environment).wait(300) == code, (made.paths.root / "log").read_text()
    return made


ONE_AFTER_ANOTHER = """
import os, sys
from cloudtune_trainer.__main__ import _end, main
for place in sys.argv[1:]:
    os.environ["MASTER_PORT"], os.environ["CLOUDTUNE_ROOT"] = place.split(":", 1)
    if code := main():
        _end(code)
_end(0)
"""


def run_all(*jobs: Root) -> None:
    """Several jobs by the same two workers: starting the two takes longer than what they have to do here."""
    probes = [socket.socket() for _ in jobs]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    places = [f"{probe.getsockname()[1]}:{made.paths.root}" for probe, made in zip(probes, jobs, strict=True)]
    for probe in probes:
        probe.close()
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    pair = [start(jobs[0], "-c", ONE_AFTER_ANOTHER, *places, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    assert [worker.wait(300) for worker in pair] == [0, 0], (jobs[0].paths.root / "log").read_text()


def same_learning(one: Root, two: Root, *, within: float) -> None:
    """Both runs report the same losses and leave the same weights, but for the order in which numbers are added."""
    losses = [[row.eval_loss for row in made.metrics if row.eval_loss is not None] for made in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=within)
    for name in ("train_loss", "eval_loss_before", "eval_loss_after"):
        assert getattr(two.manifest, name) == pytest.approx(getattr(one.manifest, name), abs=within), name
    for name in ("tokens", "trained_tokens", "steps", "trainable_parameters", "total_parameters", "eval_rows"):
        assert getattr(two.manifest, name) == getattr(one.manifest, name), name
    left, right = load_tensors(one.weights), load_tensors(two.weights)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        torch.testing.assert_close(right[name], weight, atol=20 * within, rtol=0.02, msg=name)
    assert {item.path for item in one.manifest.artifacts} == {item.path for item in two.manifest.artifacts}


CASES: dict[str, dict[str, Any]] = {
    "full": {"method": FULL, "training": {**QUIET, "gradient_checkpointing": True, "optimizer": "adamw_torch"}},
    "lora": {"method": LORA, "training": {**QUIET, "fused_loss": True}, "data": {"packing": True}, "output": {"merge": True}},
    "qlora": {"method": NF4, "training": {**QUIET, "gradient_checkpointing": True}},
}


def test_two_shards_learn_what_one_worker_does(root: Any) -> None:
    from cloudtune_trainer.evaluate import evaluate

    spread = {case: sharded(root, **settings) for case, settings in CASES.items()}
    run_all(*spread.values())
    for case, two in spread.items():
        one = root(job_file(micro=4, **CASES[case]))
        assert one.train() == "complete", case
        same_learning(one, two, within=2e-4)
        assert evaluate(two.paths.model).difference < 1e-5, case  # loaded by plain peft and transformers, in one process


def shard_rows(made: Root, step: int) -> list[dict[str, int]]:
    """Weight → rows, per worker's file of a checkpoint."""
    from safetensors import safe_open

    home = made.paths.checkpoints / f"step-{step:08d}"
    found = []
    for path in sorted(home.glob("shard-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.append({key: file.get_slice(key).get_shape()[0] for key in file.keys() if key.startswith("weight/")})  # noqa: SIM118
    return found


def test_interrupted_shards_go_on_as_if_nothing_had_happened(root: Any) -> None:
    settings = {"method": {**LORA, "dropout": 0.1}, "training": {"max_steps": 24, "save_steps": 1000, "eval_steps": 1000}}
    whole, parted = run(sharded(root, **settings)), sharded(root, **settings)
    process = start(parted)
    wait_for_step(parted, process, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75
    interrupted = parted.manifest
    assert interrupted.outcome == "interrupted"
    assert 1 <= interrupted.steps < 24
    first, second = shard_rows(parted, interrupted.steps)
    assert first.keys() == second.keys()
    rows = {name: (first[name], second[name]) for name in first}
    assert set(rows.values()) <= {(2, 2), (16, 16), (32, 32), (64, 64)}, rows  # r 4, widths 32, 64 and 128: each worker keeps half
    run(parted)
    assert parted.manifest.resumed_from_step == interrupted.steps
    assert parted.weights == whole.weights
    assert parted.manifest.train_loss == whole.manifest.train_loss


@pytest.mark.full
def test_a_shard_that_did_not_come_back_makes_its_checkpoint_count_for_nothing(root: Any) -> None:
    settings = {"method": LORA, "training": {"max_steps": 6, "save_steps": 3, "eval_steps": 6}}
    made = run(sharded(root, **settings))
    want = made.weights
    (made.paths.checkpoints / "step-00000006" / "shard-00001-of-00002.safetensors").unlink()
    made.paths.manifest.unlink()
    run(made)
    assert made.manifest.resumed_from_step == 3
    assert made.weights == want


@pytest.mark.full
def test_other_numbers_of_workers_read_the_same_shards(root: Any) -> None:
    settings = {"method": FULL, "training": {"batch_size": 12, "max_steps": 8, "save_steps": 4, "eval_steps": 4}}
    two, three = (root(job_file(micro=2, workers=count, sharding="fsdp", **settings)) for count in (2, 3))
    run(two)
    cut = two.paths.checkpoints / "step-00000008"
    for path in cut.iterdir():
        path.unlink()
    cut.rmdir()
    two.paths.checkpoints.rename(three.paths.checkpoints)
    run(three)
    assert three.manifest.resumed_from_step == 4
    assert three.manifest.eval_loss_after == pytest.approx(two.manifest.eval_loss_after, abs=2e-4)
    alone = root(job_file(micro=2, **settings))  # another micro batch would be another job
    three.paths.checkpoints.rename(alone.paths.checkpoints)
    from cloudtune.errors import JobFailed

    with pytest.raises(JobFailed, match="written by sharded workers"):
        alone.train()


@pytest.mark.full
def test_shards_in_host_memory_learn_the_same(root: Any) -> None:
    settings = {"method": NF4, "training": QUIET}
    same_learning(run(sharded(root, **settings)), run(sharded(root, offload=True, **settings)), within=1e-6)


@pytest.mark.full
def test_an_encoder_is_sharded_too(root: Any, encoder: Path, tmp_path: Path) -> None:
    steady = shutil.copytree(encoder, tmp_path / "steady")
    config = json.loads((steady / "config.json").read_text())
    # What a BERT drops is drawn by each worker for itself, so one worker and two would learn differently.
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (steady / "config.json").write_text(json.dumps(config))
    settings: dict[str, Any] = {"task": "masked_lm", "method": FULL, "training": QUIET}
    one = root(job_file("text", micro=4, **settings), base=steady)
    two = run(root(job_file("text", micro=2, workers=2, sharding="fsdp", **settings), base=steady))
    assert one.train() == "complete"
    same_learning(one, two, within=2e-4)


@pytest.mark.full
def test_the_best_shards_come_back(root: Any) -> None:
    training = {"max_steps": 60, "eval_steps": 2, "learning_rate": 0.5, "early_stopping_patience": 2, "save_steps": 100}
    made = run(sharded(root, training=training))
    losses = [row.eval_loss for row in made.metrics if row.eval_loss is not None]
    assert made.manifest.outcome == "complete"
    assert made.manifest.steps < 60
    assert made.manifest.eval_loss_after == pytest.approx(min(losses), abs=1e-5)
    from cloudtune_trainer.evaluate import evaluate

    assert evaluate(made.paths.model).difference < 1e-5


@pytest.mark.full
def test_two_machines_with_a_disk_each(root: Any) -> None:
    """Two torchrun agents; each machine keeps its own workers' shards, and together they are one checkpoint."""
    training = {"save_steps": 3, "eval_steps": 6}
    one = root(job_file(micro=4, method=LORA, training=training))
    left, right = (root(job_file(micro=4, method=LORA, training=training, nodes=2, sharding="fsdp")) for _ in range(2))
    port = ("--master-addr", "127.0.0.1", "--master-port", "29431", "--nnodes", "2", "--nproc-per-node", "1")
    agents = [
        start(made, "-m", "torch.distributed.run", *port, "--node-rank", str(rank), "-m", "cloudtune_trainer")
        for rank, made in enumerate((left, right))
    ]
    assert [agent.wait(300) for agent in agents] == [0, 0], (left.paths.root / "log").read_text()
    assert one.train() == "complete"
    same_learning(one, left, within=2e-4)
    assert not right.paths.manifest.exists()
    mine, other = (made.paths.checkpoints / "step-00000006" for made in (left, right))
    marker = json.loads((mine / "COMPLETE").read_text())
    assert marker == json.loads((other / "COMPLETE").read_text())
    files = [{path.name for path in home.glob("shard-*")} for home in (mine, other)]
    assert not files[0] & files[1]
    assert files[0] | files[1] | {"state.json"} == marker.keys()
    from cloudtune_trainer.checkpoints import is_complete

    assert not is_complete(mine)
    for path in other.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    assert is_complete(mine)
