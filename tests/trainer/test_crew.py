"""Which machine of several this is, as SageMaker and Vertex AI tell it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainer_jobs import job_file

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune_trainer.crew import Node, find_node, is_needed
from cloudtune_trainer.paths import Paths


def three_nodes() -> JobFile:
    job = job_file()
    return job.model_copy(update={"layout": job.layout.model_copy(update={"nodes": 3, "gpus": 8})})


def test_sagemaker(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-1", "algo-3", "algo-2"]}))
    assert find_node(three_nodes(), Paths(tmp_path, tmp_path, "a"), {}) == Node(1, "algo-1")


def test_vertex(tmp_path: Path) -> None:
    pools = {"workerpool0": ["zero:2222"], "workerpool1": ["one:2222", "two:2222"]}
    spec = json.dumps({"cluster": pools, "task": {"type": "workerpool1", "index": 1}})
    assert find_node(three_nodes(), Paths(tmp_path, tmp_path, "a"), {"CLUSTER_SPEC": spec}) == Node(2, "zero")


def test_nobody_says(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="3 machines"):
        find_node(three_nodes(), Paths(tmp_path, tmp_path, "a"), {})
    assert find_node(job_file(), Paths(tmp_path, tmp_path, "a"), {}) == Node(0, "127.0.0.1")


def test_workers_are_started_once() -> None:
    assert is_needed(three_nodes(), {})
    assert not is_needed(three_nodes(), {"RANK": "0"})
    assert not is_needed(job_file(), {})
