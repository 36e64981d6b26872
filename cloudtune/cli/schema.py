"""``cloudtune schema``: the recipe's JSON schema, which editors use for completion and checking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtune.cli.options import Json


def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to a file instead of stdout.", show_default=False)] = None,
    as_json: Json = False,  # noqa: ARG001 - a schema is JSON by nature; the option is here so that every command has it
) -> None:
    """Print or write the schema."""
    from cloudtune.cli.output import chatter, json_result, write_text
    from cloudtune.recipe.schema import json_schema
    from cloudtune.show.json import to_text

    if output is None:
        json_result(json_schema())
        return
    write_text(output, to_text(json_schema()))
    chatter(f"written to {output}; in VS Code: # yaml-language-server: $schema={output}")
