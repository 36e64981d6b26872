"""``cloudtune estimate MODEL`` and nothing else: recognised and answered without Typer and without a recipe's schema.

The long way (``cli/estimate.py``) gives the same answer and knows every option; this one is what a first look costs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HUB_ID = re.compile(r"(?!huggingface\.co/)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for; ``base`` as a recipe would name it."""

    base: str
    gpu: str | None = None
    as_json: bool = False


def question(arguments: Sequence[str]) -> Question | None:
    """The question when it is one for here: ``estimate MODEL [--json] [--gpu NAME]`` in any order. None for everything else."""
    if not arguments or arguments[0] != "estimate":
        return None
    words, gpu, as_json = list(arguments[1:]), None, False
    if "--json" in words:
        words.remove("--json")
        as_json = True
    if "--gpu" in words[:-1]:
        place = words.index("--gpu")
        gpu = words[place + 1]
        del words[place : place + 2]
    base = base_of(words[0]) if len(words) == 1 else None
    return Question(base, gpu, as_json) if base is not None and not (gpu or "").startswith("-") else None


def base_of(source: str) -> str | None:
    """``model.base`` for a model that was named instead of a recipe; None for what is no plain hub id, folder or built-in model."""
    from cloudtune.recipe.quickstart import QUICKSTART_BASE

    path = Path(source)
    if source.startswith("-") or path.suffix in (".yaml", ".yml") or path.is_file() or not source.isprintable():
        return None
    if source == QUICKSTART_BASE:
        return source
    if path.is_dir():
        return source if path.is_absolute() else f"./{path}"
    return source if _HUB_ID.fullmatch(source) else None


def answer(asked: Question) -> None:
    """Reckon and print."""
    from cloudtune.session import Session
    from cloudtune.verbs.sizing import bare_sizes

    with Session.open() as session:
        found = bare_sizes(asked.base, provider=None, gpu=asked.gpu, session=session)
    if asked.as_json:
        from cloudtune.cli.output import json_result

        json_result(found)
    else:
        from cloudtune.cli.output import result
        from cloudtune.show.sizing import method_lines
        from cloudtune.show.text import stdout_page

        result(method_lines(found, stdout_page()))
