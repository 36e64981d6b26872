"""What goes wrong before a job exists: every class of mistake has its exit code, its sentence and its JSON; never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtune.cli.main import COMMANDS
from tests.e2e.command import QUICKSTART, ROOT, cloudtune, surroundings

NOT_THERE = "there is no such file"

CASES = {
    "unknown command": (["plna", "x.yaml"], 2, "did you mean plan?"),
    "unknown command without a guess": (["zzz"], 2, "cloudtune --help"),
    "unknown option": (["ps", "--nope"], 2, "cloudtune ps --help"),
    "missing argument": (["status"], 2, "cloudtune status --help"),
    "bad choice": (["plan", "x.yaml", "--provider", "azure"], 2, "'azure' is not one of 'aws', 'gcp', 'local'"),
    "bad number": (["stop", "x", "--grace", "soon"], 2, "--grace"),
    "missing recipe": (["validate", "missing.yaml"], 2, NOT_THERE),
    "recipe is a folder": (["plan", "."], 2, "folder"),
    "impossible override": (["validate", str(QUICKSTART), "--set", "training.epoch=1"], 2, "did you mean epochs?"),
    "override of a wrong type": (["validate", str(QUICKSTART), "--set", "training.epochs=often"], 2, "training.epochs"),
    "bad name": (["init", "Not A Name"], 2, "lower-case letters"),
    "unknown job": (["logs", "nope"], 2, "cloudtune ps"),
    "last of no jobs": (["logs", "last"], 2, "there are no jobs yet"),
    "notebook in a folder": (["render", str(QUICKSTART), "--target", "colab", "-o", "none/run.ipynb"], 2, "cannot be written"),
    "nothing fits": (["plan", str(QUICKSTART), "--provider", "local", "--set", "compute.max_hours=0.000001"], 3, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_mistakes_have_their_exit_code_and_say_what_to_do(name: str, tmp_path: Path) -> None:
    arguments, code, words = CASES[name]
    ran = cloudtune(*arguments, folder=tmp_path)
    assert ran.code == code, ran.err
    assert words in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err
    as_json = cloudtune(*arguments, "--json", folder=tmp_path)
    assert as_json.code == code
    error = as_json.json["error"]
    assert error["exit_code"] == code
    assert error["code"]
    assert error["what"] or error["faults"]
    assert "error" not in as_json.err


def test_init_never_overwrites(tmp_path: Path) -> None:
    assert cloudtune("init", "mine", folder=tmp_path).code == 0
    before = (tmp_path / "mine.yaml").read_bytes()
    again = cloudtune("init", "mine", "--method", "full", folder=tmp_path)
    assert again.code == 2
    assert "--force" in again.err
    assert (tmp_path / "mine.yaml").read_bytes() == before
    assert cloudtune("init", "mine", "--method", "full", "--force", folder=tmp_path).code == 0
    assert (tmp_path / "mine.yaml").read_bytes() != before


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_what_init_writes_is_valid(method: str, tmp_path: Path) -> None:
    assert cloudtune("init", "mine", "--method", method, folder=tmp_path).code == 0
    assert cloudtune("validate", "mine.yaml", "--no-files", folder=tmp_path).code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_takes_json(name: str, tmp_path: Path) -> None:
    ran = cloudtune(name, "--help", folder=tmp_path)
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: cloudtune {name}")
    assert "--json" in ran.out
    assert ran.err == ""
    assert cloudtune(name, "-h", folder=tmp_path).out == ran.out


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    assert cloudtune(folder=tmp_path).out == cloudtune("--help", folder=tmp_path).out


def test_the_version(tmp_path: Path) -> None:
    import cloudtune as package

    assert cloudtune("--version", folder=tmp_path).out == f"cloudtune {package.__version__}\n"


def test_a_bug_of_ours_is_exit_70_with_its_trace_in_a_file(tmp_path: Path) -> None:
    """A broken installation stands for a bug: a module of ours that cannot be imported."""
    broken = tmp_path / "broken"
    (broken / "cloudtune").mkdir(parents=True)
    for path in (ROOT / "cloudtune").rglob("*.py"):
        target = broken / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (broken / "cloudtune" / "session.py").write_text("raise RuntimeError('unheard of')\n")
    for arguments in (["ps"], ["ps", "--json"]):
        ran = cloudtune(*arguments, folder=tmp_path, source=broken)
        assert ran.code == 70
        assert "Traceback" not in ran.err + ran.out
        text = json.loads(ran.out)["error"]["where"] if "--json" in arguments else ran.err
        path = re.search(r"\S+cloudtune-bug-\S+\.txt", text)
        assert path is not None
        trace = Path(path[0])
        assert "unheard of" in trace.read_text()
        assert trace.stat().st_mode & 0o077 == 0, "the trace is for its owner only"
        trace.unlink()


def test_a_terminal_that_cannot_show_a_sign_is_no_reason_to_fail(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cloudtune", "plna"],
        cwd=tmp_path,
        env={**surroundings(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert b"did you mean plan?" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [("schema", 0), ("ps", 0), ("validate missing.yaml", 2), ("validate missing.yaml --json", 2)]
)
def test_streams_that_the_caller_has_closed(arguments: str, code: int, tmp_path: Path) -> None:
    script = f"{sys.executable} -m cloudtune {arguments} <&- >&- 2>&-"
    ran = subprocess.run(["sh", "-c", script], cwd=tmp_path, env={**surroundings(), "TMPDIR": str(tmp_path)}, timeout=60)
    assert ran.returncode == code
    assert not list(tmp_path.glob("cloudtune-bug-*"))


@pytest.mark.parametrize("arguments", [["schema"], ["ps", "--json"], ["validate", "missing.yaml", "--json"]])
def test_a_reader_that_went_away_is_no_bug(arguments: list[str], tmp_path: Path) -> None:
    """``cloudtune ps | head -1``: quiet, and no trace is written."""
    reads, writes = os.pipe()
    os.close(reads)
    environ = {**surroundings(), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "cloudtune", *arguments],
        cwd=tmp_path,
        env=environ,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writes)
    assert ran.returncode in (130, 2)
    assert ran.stderr == ""
    assert not list(tmp_path.glob("cloudtune-bug-*"))


def test_standard_output_that_is_full(tmp_path: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "cloudtune", "schema"],
            cwd=tmp_path,
            env=surroundings(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 4
    assert "Traceback" not in ran.stderr
