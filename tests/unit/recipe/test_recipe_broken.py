"""Every broken recipe of tests/data/broken: each fault on its line and column, with what to do, and never a secret.

``expected.json`` lists [line, column, words of what is wrong, words of the fix] per file, in order.
"""

from __future__ import annotations

import json
import os
import random
import time
import traceback
from pathlib import Path

import pytest

from cloudtune.errors import RecipeError
from cloudtune.recipe.load import load_file, load_text
from cloudtune.verbs.validate import validate
from tests.pace import slowness

BROKEN = Path(__file__).resolve().parents[2] / "data" / "broken"
EXPECTED: dict[str, list[tuple[int, int, str, str]]] = json.loads((BROKEN / "expected.json").read_text(encoding="utf-8"))
SECRET = "ThisMustNeverBePrinted"
FOREIGN_WORDS = ("pydantic", "ruamel", "errors.dev", "Traceback", "Input should", "validation error", "<stream", "mapping values")


def refused(path: Path, **options: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        validate(path, **options)
    return caught.value


def test_every_file_is_expected_and_every_expectation_has_a_file() -> None:
    files = {path.stem for path in BROKEN.glob("*.yaml")}
    assert files == set(EXPECTED)
    assert len(files) >= 70


@pytest.mark.parametrize("name", EXPECTED)
def test_faults_of_broken_recipe(name: str) -> None:
    path = BROKEN / f"{name}.yaml"
    error = refused(path)
    found = [(fault.line, fault.column) for fault in error.faults]
    assert found == [(line, column) for line, column, _, _ in EXPECTED[name]]
    for fault, (line, column, what, fix) in zip(error.faults, EXPECTED[name], strict=True):
        assert what in fault.what.replace(f"{BROKEN}/", "")
        assert fix in str(fault)
        assert str(fault).startswith(f"{path}:{line}:{column}: ")
        assert fault.hint or fault.expected
    assert error.exit_code == 2
    assert error.code == "bad-recipe"


@pytest.mark.parametrize("name", EXPECTED)
def test_no_secret_and_no_foreign_words(name: str) -> None:
    error = refused(BROKEN / f"{name}.yaml")
    everything = "\n".join([str(error), repr(error), repr(error.faults), *traceback.format_exception(error)[:1]])
    told = "\n".join([str(error), repr(error.faults)])
    assert SECRET not in everything + "".join(traceback.format_exception(error))
    assert not [word for word in FOREIGN_WORDS if word in told]


def test_all_faults_are_in_the_order_of_their_lines() -> None:
    for expected in EXPECTED.values():
        places = [(line, column) for line, column, _, _ in expected]
        assert places == sorted(places)


def test_without_files_only_the_recipe_is_judged() -> None:
    assert load_file(BROKEN / "rows-missing-a-field.yaml").recipe.name == "broken"
    assert validate(BROKEN / "missing-data-file.yaml", files=False).recipe.name == "broken"
    assert len(refused(BROKEN / "recipe-and-data.yaml").faults) == 2
    assert len(refused(BROKEN / "recipe-and-data.yaml", files=False).faults) == 1


@pytest.mark.parametrize("kind", ["bytes", "letters", "braces", "keys"])
def test_ten_megabytes_of_nonsense_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    size = 10 * 1024 * 1024
    content = {
        "bytes": random.Random(7).randbytes(size),
        "letters": b"nonsense " * (size // 9),
        "braces": b"{[" * (size // 2),
        "keys": b"key: value\n" * (size // 11),
    }[kind]
    path = tmp_path / "nonsense.yaml"
    path.write_bytes(content)
    began = time.perf_counter()
    error = refused(path)
    assert time.perf_counter() - began < 2 * slowness()  # milliseconds
    assert error.faults[0].line == 1
    assert "larger than 256 KiB" in str(error)


HOSTILE = {
    "keys": "".join(f"k{i}: 1\n" for i in range(25_000)),
    "unknown keys of a section": "training:\n" + "".join(f"  k{i}: 1\n" for i in range(9_000)),
    "duplicates": "a: 1\n" * 9_000,
    "numbers in brackets": "a: [" + "1," * 100_000 + "]",
    "open brackets": "[" * 250_000,
    "open braces": "{" * 250_000,
    "dashes": "- " * 125_000,
    "question marks": "? " * 125_000,
    "anchors": "".join(f"- &a{i} x\n" for i in range(15_000)),
    "chain of aliases": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2_000)),
    "documents": "---\n" * 60_000,
    "quotes": "'" * 250_000,
    "block of text": "a: |\n" + " \n" * 120_000,
    "one long word": "name: " + "a1-" * 80_000,
    "digits": "training: {epochs: " + "9" * 200_000 + "}",
    "almost a number": "training: {epochs: " + "0" * 200_000 + "x}",
    "steps of indentation": "".join(" " * i + "a:\n" for i in range(600)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_within_the_limit_costs_little(name: str) -> None:
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_text(HOSTILE[name])
    assert time.process_time() - began < 5 * slowness()  # about half a second
    assert len(caught.value.faults) <= 51
    assert len(str(caught.value)) < 30_000


def test_more_faults_than_anyone_reads_are_counted() -> None:
    with pytest.raises(RecipeError) as caught:
        load_text("".join(f"key{i}: 1\n" for i in range(200)))
    assert len(caught.value.faults) == 51
    assert "more problems" in caught.value.faults[-1].what


def test_paths_that_are_no_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text("version: 1\n", encoding="utf-8")
    folder = refused(tmp_path)
    assert "this is a folder" in str(folder)
    assert "inner.yaml" in str(folder)
    assert "no such file" in str(refused(tmp_path / "missing.yaml"))
    assert "cannot be read" in str(refused(tmp_path / "inner.yaml" / "below.yaml"))
    assert "cannot be a file name" in str(refused(Path("nul\0byte.yaml")))
    assert "cannot be read" in str(refused(tmp_path / ("x" * 5000)))
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert "cannot be read" in str(refused(tmp_path / "loop.yaml"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "closed.yaml"
    path.write_text("version: 1\n", encoding="utf-8")
    path.chmod(0)
    assert "permission denied" in str(refused(path))


def test_devices_do_not_hang() -> None:
    assert "larger than" in str(refused(Path("/dev/zero")))
    assert "holds no values" in str(refused(Path("/dev/null")))
