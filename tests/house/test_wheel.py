"""The wheel works from any folder: built, installed into an empty environment, and used where no checkout is near."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.house.source import ROOT

BUNDLED = "cloudtune/_bundled"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True, text=True, timeout=300)
    (built,) = folder.glob("cloudtune-*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cloudtune`` in an environment that holds the wheel; what it depends on is lent from this one, cloudtune itself is not."""
    environment = tmp_path_factory.mktemp("env") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=300)
    (site,) = (environment / "lib").glob("python*/site-packages")
    # A plain line of a .pth file lends a folder without reading the .pth files in it: our editable install stays out.
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin" / "cloudtune"


def run(command: Path, folder: Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(command), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def test_the_wheel_holds_the_package_and_what_travels_with_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cloudtune"}
    tracked = [path for part in ("containers", "recipes") for path in (ROOT / part).rglob("*") if path.is_file()]
    expected = {f"{BUNDLED}/{path.relative_to(ROOT).as_posix()}" for path in tracked if "__pycache__" not in path.parts}
    assert expected <= set(names)
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 8 * 2**20


def test_it_runs_from_an_empty_folder(command: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = run(command, empty, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: cloudtune")
    doctor = json.loads(run(command, empty, "doctor", "--json").stdout)
    own = {check["name"]: check["found"] for check in doctor["checks"]}["own files"]
    assert BUNDLED in own, "the wheel must use its own files, not a checkout's"
    quickstart = str(Path(own.rpartition(" in ")[2]) / "recipes" / "quickstart.yaml")
    for arguments in (["validate", quickstart], ["plan", quickstart, "--provider", "local"]):
        ran = run(command, empty, *arguments)
        assert ran.returncode == 0, ran.stderr
    rendered = run(command, empty, "render", quickstart, "--provider", "local", "-o", "bundle", "--json")
    assert rendered.returncode == 0, rendered.stderr
    files = json.loads(rendered.stdout)["files"]
    assert {"job/job.json", "image/Dockerfile", "image/trainer/cloudtune_trainer/__main__.py"} <= set(files)


def test_a_bundle_of_the_wheel_is_the_bundle_of_the_checkout(command: Path, tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["render", recipe, "--provider", "local", "--json", "-o"]
    here = subprocess.run(
        [sys.executable, "-m", "cloudtune", *arguments, str(tmp_path / "a")], env=environment, capture_output=True, text=True, check=True
    )
    there = run(command, tmp_path, *arguments, str(tmp_path / "b"))
    assert json.loads(here.stdout)["digest"] == json.loads(there.stdout)["digest"]


@pytest.mark.stack
@pytest.mark.timeout(900)
def test_it_trains_from_an_empty_folder(command: Path, tmp_path: Path) -> None:
    doctor = json.loads(run(command, tmp_path, "doctor", "--json").stdout)
    own = {check["name"]: check["found"] for check in doctor["checks"]}["own files"]
    quickstart = str(Path(own.rpartition(" in ")[2]) / "recipes" / "quickstart.yaml")
    ran = run(
        command, tmp_path, "launch", quickstart, "--provider", "local", "--yes", "--json", "--set", "training.max_steps=3", timeout=800
    )
    assert ran.returncode == 0, ran.stderr
    folder = Path(json.loads(ran.stdout)["collected"]["folder"])
    assert folder.is_relative_to(tmp_path)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
