"""Every error class is rendered once and compared with a stored sheet, so that a change of wording is seen and meant.

After a meant change: CLOUDTUNE_REWRITE=1 python -m pytest tests/house/test_errors.py, then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cloudtune.errors
from cloudtune.errors import CloudtuneError, Fault, JobFailed, RecipeError
from cloudtune.show.errors import error_body, error_lines
from cloudtune.show.text import Page

SHEET = Path(__file__).parents[1] / "data" / "error_sheet.txt"
EXIT_CODES = {1, 2, 3, 4}


def classes() -> list[type[CloudtuneError]]:
    """The tree from its root, depth first, as far as cloudtune/errors.py defines it."""

    def below(root: type[CloudtuneError]) -> list[type[CloudtuneError]]:
        return [root, *(kind for child in root.__subclasses__() if child.__module__ == cloudtune.errors.__name__ for kind in below(child))]

    return below(CloudtuneError)


def sample(kind: type[CloudtuneError]) -> CloudtuneError:
    what = "what happened, in one sentence that is long enough to need a second line on a narrow terminal"
    if kind is RecipeError:
        return RecipeError(
            [
                Fault("training.epochs", "epochs is 0", "a number above 0", "leave it out for 3", "recipe.yaml", 12, 11),
                Fault("lora_r", "unknown key lora_r", "", "did you mean method.r?", "recipe.yaml", 3, 1),
                Fault("data.train", "the file is missing", file="recipe.yaml"),
            ],
            hint="the keys are explained in docs/recipe.md",
        )
    if kind is JobFailed:
        return JobFailed(what, where="local://this-machine/job-1", hint="what to do", log_tail=["step 3", "\x1b[31mout of memory\x1b[0m"])
    return kind(what, where="s3://bucket/key", hint="what to do")


def sheet() -> str:
    parts = []
    for kind in classes():
        error = sample(kind)
        marks = f"exit {kind.exit_code}, code {error.code}{', retryable' if kind.retryable else ''}"
        parts.append("\n".join([f"== {kind.__name__}: {marks}", *error_lines(error, Page(80)), ""]))
    return "\n".join(parts)


def test_every_error_class_reads_as_stored() -> None:
    if os.environ.get("CLOUDTUNE_REWRITE"):
        SHEET.write_text(sheet(), encoding="utf-8")
    assert sheet() == SHEET.read_text(encoding="utf-8")


def test_the_tree_is_whole() -> None:
    names = {kind.__name__ for kind in classes()}
    defined = {
        name
        for name, value in vars(cloudtune.errors).items()
        if isinstance(value, type) and issubclass(value, CloudtuneError) and value.__module__ == cloudtune.errors.__name__
    }
    assert names == defined
    assert all(kind.exit_code in EXIT_CODES for kind in classes())
    assert all(name in (cloudtune.errors.__doc__ or "") for name in names), "the drawn tree at the head of errors.py lacks a class"


def test_every_error_has_a_json_form_with_the_same_keys() -> None:
    for kind in classes():
        body = error_body(sample(kind))
        assert {"code", "what", "where", "hint", "exit_code", "faults"} <= body.keys()
        json.dumps(body)


def test_terminal_codes_in_messages_do_not_reach_the_terminal() -> None:
    hostile = CloudtuneError("clear \x1b[2J the screen\x07", where="a\x1b]0;title\x07b", hint="\x9b31m")
    text = "\n".join(error_lines(hostile, Page(80)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\x9b" not in text
