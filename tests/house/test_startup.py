"""Start-up: the commands that people type often load nothing heavy. Each case is a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT
from tests.interpreter import loaded_roots

HEAVY = ("torch", "transformers", "boto3", "botocore", "sagemaker", "google", "grpc", "pandas", "numpy", "datasets", "huggingface_hub")

PROBE = """
import json, sys
doors = []
sys.addaudithook(lambda event, arguments: doors.append(event) if event in ("socket.connect", "socket.getaddrinfo", "socket.bind") else None)
from cloudtune.cli.main import main
code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.write("\\nLOADED " + json.dumps({"code": code, "all": sorted(sys.modules), "doors": doors}))
"""


def loaded_by(arguments: list[str], folder: Path) -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDTUNE_HOME": str(folder / "home")}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    report = ran.stderr.rpartition("LOADED ")[2]
    assert report, ran.stderr
    answer: dict[str, list[str]] = json.loads(report)
    assert answer["code"] == 0, ran.stderr
    return {**answer, "roots": sorted(loaded_roots(answer["all"]))}


QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
CASES = {
    "help": ["--help"],
    "validate": ["validate", QUICKSTART],
    "plan": ["plan", QUICKSTART, "--provider", "local"],
    "plan-clouds": ["plan", QUICKSTART, "--json"],
    "render": ["render", QUICKSTART, "--provider", "local", "-o", "bundle"],
    "ps": ["ps"],
    "schema": ["schema"],
    "init": ["init", "newcomer", "-o", "recipe.yaml"],
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_heavy_is_loaded(name: str, tmp_path: Path) -> None:
    loaded = loaded_by(CASES[name], tmp_path)
    assert "typer" in loaded["roots"], "the probe looks at the wrong interpreter"
    assert sorted(set(HEAVY).intersection(loaded["roots"])) == []
    assert loaded["doors"] == [], "it spoke to a network"


def test_an_aws_request_needs_no_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of a SageMaker job on a machine without boto3, made and checked by our own tables."""
    monkeypatch.setenv("CLOUDTUNE_AWS_ROLE", "arn:aws:iam::123456789012:role/cloudtune-job")
    monkeypatch.setenv("CLOUDTUNE_AWS_BUCKET", "sagemaker-cloudtune")
    loaded = loaded_by(["render", QUICKSTART, "--provider", "aws", "--target", "request", "-o", "request.json"], tmp_path)
    assert "cloudtune.providers.aws.request" in loaded["all"]
    assert sorted(set(HEAVY).intersection(loaded["roots"])) == []
    assert loaded["doors"] == [], "it spoke to a network"
    assert json.loads((tmp_path / "request.json").read_text())["body"]["TrainingJobName"] == "quickstart-launch-id"


def test_a_gcp_request_needs_no_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of a Vertex AI job on a machine without Google's libraries, made and checked by our own tables."""
    for name, value in {"PROJECT": "my-project", "BUCKET": "my-bucket", "REGION": "us-central1"}.items():
        monkeypatch.setenv(f"CLOUDTUNE_GCP_{name}", value)
    loaded = loaded_by(["render", QUICKSTART, "--provider", "gcp", "--target", "request", "-o", "request.json"], tmp_path)
    assert "cloudtune.providers.gcp.request" in loaded["all"]
    assert sorted(set(HEAVY).intersection(loaded["roots"])) == []
    assert loaded["doors"] == [], "it spoke to a network"
    labels = json.loads((tmp_path / "request.json").read_text())["body"]["customJob"]["labels"]
    assert labels["cloudtune_run"] == "quickstart-launch-id"


def test_ps_and_help_load_neither_yaml_nor_pydantic(tmp_path: Path) -> None:
    for name in ("help", "ps"):
        roots = loaded_by(CASES[name], tmp_path)["roots"]
        assert sorted({"pydantic", "ruamel", "pygments", "markdown_it"}.intersection(roots)) == [], name


def test_a_bare_model_is_estimated_without_pydantic_and_typer(tmp_path: Path) -> None:
    """What a first look costs is the reckoning, not the libraries around it."""
    loaded = loaded_by(["estimate", "meta-llama/Llama-3.1-8B", "--json"], tmp_path)
    assert "cloudtune.memory.reckon" in loaded["all"]
    unwanted = {"typer", "pydantic", "pydantic_core", "ruamel", "rich", "yaml", "sqlite3", "asyncio", "email"}
    assert sorted(unwanted.intersection(loaded["roots"])) == []
    assert [
        name for name in loaded["all"] if name in ("cloudtune.recipe.spec", "cloudtune.ledger.ledger", "cloudtune.planning.choose")
    ] == []
    assert loaded["doors"] == [], "it spoke to a network"


def test_help_loads_no_command(tmp_path: Path) -> None:
    commands = [name for name in loaded_by(CASES["help"], tmp_path)["all"] if name.startswith("cloudtune.")]
    assert sorted(commands) == [f"cloudtune.{name}" for name in ("cli", "cli.application", "cli.bare", "cli.main", "errors")]


def test_importing_the_package_loads_only_its_face(tmp_path: Path) -> None:
    code = "import sys, json, cloudtune; print(json.dumps(sorted(name for name in sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(ran.stdout)
    assert [name for name in loaded if name.startswith("cloudtune")] == ["cloudtune"]
    assert {"pydantic", "typer", "rich", "ruamel"}.intersection(loaded) == set()


def test_every_name_of_the_sdk_is_there() -> None:
    """The lazy names and the names that type checkers see are the same, and each can be imported."""
    import ast

    import cloudtune

    tree = ast.parse((ROOT / "cloudtune" / "__init__.py").read_text())
    declared = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert declared == set(cloudtune._HOMES)
    assert all(getattr(cloudtune, name) is not None for name in cloudtune._HOMES)
    assert set(cloudtune._HOMES) <= set(dir(cloudtune))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = cloudtune.nope
