"""Rules of the house that a machine can check: no patching, few catch-alls, small functions and files, docstrings, independence."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

from tests.house.source import PACKAGE, ROOT, TRAINER, project_files, python_files, tree

MAY_CATCH_ALL = {"cloudtune/cli/main.py", "cloudtune/verbs/track.py"}
LONGEST_FUNCTION = 60
LONGEST_FILE = 500


def ours() -> list[Path]:
    return [*python_files(PACKAGE), *python_files(TRAINER)]


def all_python() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py"]


def functions() -> list[tuple[str, int]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in ours()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_nobody_patches() -> None:
    """Fakes have the interface of what they stand for; patching and mock objects are not used anywhere."""
    words = re.compile(r"\bunittest\.mock\b|\bmock\.patch\b|\bMagicMock\b|\bmocker\b")
    files = [path for path in all_python() if path != Path(__file__)]
    assert len(files) >= 100
    assert [str(path.relative_to(ROOT)) for path in files if words.search(path.read_text(encoding="utf-8"))] == []


def hands_on(handler: ast.ExceptHandler) -> bool:
    """A handler that only tidies up: whatever it caught is raised again."""
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def test_everything_is_caught_in_two_places_only() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ours()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not hands_on(node)
    }
    assert found <= MAY_CATCH_ALL


def test_functions_stay_small() -> None:
    sizes = functions()
    assert len(sizes) >= 400
    assert sorted(name for name, lines in sizes if lines > LONGEST_FUNCTION) == []
    lines = sorted(count for _, count in sizes)
    median, late = statistics.median(lines), lines[int(len(lines) * 0.9)]
    print(f"functions: {len(lines)}, median {median} lines, 90 % within {late}, longest {lines[-1]}")
    assert median <= 12
    assert late <= 32


def test_files_stay_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in ours()}
    print(f"files: {len(sizes)}, median {statistics.median(sizes.values())} lines, longest {max(sizes.values())}")
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FILE} == {}


def test_every_module_says_what_it_does() -> None:
    silent = [path.relative_to(ROOT).as_posix() for path in ours() if not ast.get_docstring(tree(path))]
    assert silent == []


def test_protocols_are_small() -> None:
    large = [
        f"{path.relative_to(ROOT)} {node.name}"
        for path in ours()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)
        and sum(isinstance(item, ast.FunctionDef) for item in node.body) > 4
    ]
    assert large == []


def test_no_holes() -> None:
    holes = re.compile(r"\bNotImplementedError\b(?!`)|\bTODO\b|\bFIXME\b|\bXXX\b")
    found = []
    for path in ours():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            raised = re.search(r"raise NotImplementedError", line)
            marked = holes.search(line) and "NotImplementedError" not in line
            if raised or marked:
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


def test_the_project_stands_alone() -> None:
    """Nothing here reads a folder beside the checkout or a path of the machine it was written on."""
    outside = re.compile(r"\.\./" + r"shared\b|/work/" + r"(?:shared|main)\b")
    visited = 0
    found = []
    for path in project_files():
        raw = path.read_bytes()
        visited += 1
        if b"\0" not in raw[:4096] and outside.search(raw.decode("utf-8", errors="replace")):
            found.append(str(path.relative_to(ROOT)))
    assert visited >= 150
    assert found == []


def test_no_link_leads_out_of_the_project() -> None:
    links = [path for path in project_files() if path.is_symlink()]
    assert [str(path) for path in links if not path.resolve().is_relative_to(ROOT)] == []
