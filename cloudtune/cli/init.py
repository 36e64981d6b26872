"""``cloudtune init``: a commented recipe to start from. Never overwrites a file unless told so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cloudtune.cli.options import Json
from cloudtune.errors import UsageError


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the job: lower-case letters, digits, hyphens.")] = "my-model",
    method: Annotated[Literal["full", "lora", "qlora"], typer.Option("--method", help="How to train.")] = "qlora",
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Hub id, folder, or builtin:quickstart.")] = "Qwen/Qwen3-8B",
    data: Annotated[str, typer.Option("--data", metavar="PATH", help="Training data.")] = "./data/train.jsonl",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file (default: NAME.yaml).", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write the recipe and say what to do next."""
    from cloudtune.cli.output import json_result, result, write_text
    from cloudtune.recipe.template import recipe_text

    path = output or Path(f"{name}.yaml")
    text = recipe_text(name, method=method, model=model, data=data)
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", where=str(path), hint="choose another file with -o, or add --force", code="exists")
    write_text(path, text)
    if as_json:
        json_result({"written": path, "name": name, "method": method, "model": model})
        return
    result([f"wrote {path}", f"  look it over, then: cloudtune validate {path}", f"  what it takes:      cloudtune plan {path}"])
