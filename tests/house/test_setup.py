"""The set-up tool: idempotent, keyed on what an installation depends on, honest about sizes. Nothing is installed here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.house.source import ROOT
from tests.scheduling import FilesAndEngine
from tools import setup_env

TOOL = ROOT / "tools" / "setup_env.py"


def run(extra: str, venv: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), extra, "--venv", str(venv)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("asked", "installed"), [("train", "train"), ("dev", "dev"), ("train", "dev")])
def test_what_is_installed_is_not_installed_again(asked: str, installed: str, tmp_path: Path) -> None:
    setup_env.stamp(tmp_path, installed).write_text(setup_env.wanted_digest())
    ran = run(asked, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [f".cloudtune-{installed}"]


def test_the_digest_is_of_this_project_file() -> None:
    assert setup_env.wanted_digest() == setup_env.wanted_digest()
    assert len(setup_env.wanted_digest()) == 64
    assert {"train", "dev"} <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()


def test_torch_is_pinned_once() -> None:
    assert setup_env.torch_pin() == "2.13.0"


def test_an_unknown_extra_is_refused(tmp_path: Path) -> None:
    ran = run("everything", tmp_path)
    assert ran.returncode == 2
    assert "invalid choice" in ran.stderr


def test_sizes_of_files_are_told_and_unknown_ones_are_zero(tmp_path: Path) -> None:
    wheel = tmp_path / "a wheel+cpu.whl"
    wheel.write_bytes(b"x" * 1234)
    assert setup_env.size_of(wheel.as_uri()) == 1234
    assert setup_env.size_of((tmp_path / "missing").as_uri()) == 0
    assert setup_env.size_of("http://127.0.0.1:9/never.whl") == 0


def test_a_large_download_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = tmp_path / "torch.whl"
    with big.open("wb") as file:
        file.truncate(700 * 10**6)  # sparse: takes no room
    build = setup_env.TorchBuild("torch==2.13.0", (), (big.as_uri(),))
    assert setup_env.announce(build) == 700 * 10**6
    said = capsys.readouterr().err
    assert "torch==2.13.0: 700 MB in 1 package, from a file on this machine" in said
    assert "CUDA" in said


def test_the_makefile_and_ci_use_the_tool() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "tools/setup_env.py" in makefile
    assert "cloudtune launch recipes/quickstart.yaml --provider local --yes" in makefile
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111
    for part in ("lint", "types", "test"):
        assert part in ci.read_text()


def test_no_namespace_is_put_into_every_process(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    for name in ("google_cloud_aiplatform-2.7.0-py3.12-nspkg.pth", "distutils-precedence.pth"):
        (site / name).write_text("import sys")
    setup_env.drop_namespace_hooks(tmp_path)
    assert [path.name for path in site.iterdir()] == ["distutils-precedence.pth"]


def test_tests_that_share_something_slow_share_a_worker() -> None:
    """Groups of ``make test``: by file, and one for all that use the engine, whose names and images would clash."""
    groups = {name: FilesAndEngine._split_scope(None, f"{name}::test_x[a@b]") for name in ENGINE_FILES + OTHER_FILES}
    assert {groups[name] for name in ENGINE_FILES} == {"engine"}
    assert [groups[name] for name in OTHER_FILES] == list(OTHER_FILES)
    assert "--dist loadscope" in (ROOT / "Makefile").read_text(), "any other way of xdist does not ask for our groups"


ENGINE_FILES = ("tests/containers/test_image.py", "tests/containers/test_dryrun.py", "tests/containers/test_standin_containers.py")
OTHER_FILES = ("tests/unit/test_cost.py", "tests/containers/test_rendering.py", "tests/e2e/test_life.py")
