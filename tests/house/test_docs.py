"""The documents say what is: every command is documented with its own help text, links lead somewhere, examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtune.cli.main import COMMANDS
from tests.house.source import ROOT, project_files
from tools.make_cli_page import PAGE, commands_on, renewed

_LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)[^)]*\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [match[2] for match in _FENCE.finditer(page.read_text(encoding="utf-8")) if match[1] == language]


def test_every_command_is_on_the_page_once() -> None:
    assert commands_on(PAGE.read_text(encoding="utf-8")) == ["", *COMMANDS]


def test_the_help_texts_are_the_commands_own() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert renewed(page) == page, "run: .venv/bin/python tools/make_cli_page.py"


def test_every_exit_code_is_on_the_page() -> None:
    from cloudtune import errors
    from cloudtune.cli import main

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CloudtuneError)}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}
    assert listed == codes | {0, main.EXIT_BUG, main.EXIT_INTERRUPTED}


def test_links_in_documents_lead_somewhere() -> None:
    pages = [path for path in project_files() if path.suffix == ".md"]
    assert len(pages) >= 6
    broken = [
        f"{page.relative_to(ROOT)} → {target}"
        for page in pages
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_commands_named_in_documents_exist() -> None:
    pages = [path for path in project_files() if path.suffix == ".md"]
    named = {word for page in pages for word in re.findall(r"`cloudtune ([a-z]+)\b", page.read_text(encoding="utf-8"))}
    assert named
    assert named - COMMANDS.keys() == set()


def test_the_changelog_has_an_entry_for_this_version() -> None:
    import cloudtune

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{cloudtune.__version__}]" in changelog


@pytest.fixture
def folder_with_recipes(tmp_path: Path) -> Path:
    """A folder in which the README's relative paths hold."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def environment() -> dict[str, str]:
    command_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{command_folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.stack
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_python_examples_of_the_readme_run(number: int, folder_with_recipes: Path) -> None:
    code = blocks(ROOT / "README.md", "python")[number]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder_with_recipes, env=environment(), capture_output=True, text=True, timeout=800
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_shell_examples_of_the_readme_run(folder_with_recipes: Path) -> None:
    """The tour's commands, one after the other, but for those that start a job (the demo test does) or make."""
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if line.startswith("cloudtune ")]
    assert len(lines) >= 6
    for line in lines:
        told = line.partition("  #")[0]
        if told.startswith("cloudtune launch") or " last" in told:
            continue
        command = told.replace("cloudtune ", f"{sys.executable} -m cloudtune ", 1)
        ran = subprocess.run(command, shell=True, cwd=folder_with_recipes, env=environment(), capture_output=True, text=True, timeout=120)  # noqa: S602
        assert ran.returncode == 0, f"{line}\n{ran.stderr}"
