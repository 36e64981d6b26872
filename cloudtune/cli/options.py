"""Arguments and options that several commands share, so that they are named and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

PlaceName = Literal["aws", "gcp", "local"]
ProviderName = Literal["aws", "gcp", "local", "auto"]

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
JobName = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's id or its beginning, its address, its recipe's name, or: last", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the recipe, such as training.epochs=1. Repeatable."),
]
Provider = Annotated[
    ProviderName | None,
    typer.Option("--provider", help="Where to run: wins over the recipe's compute.provider. auto compares.", show_choices=True),
]
Place = Annotated[PlaceName | None, typer.Option("--provider", help="Also look at what jobs there need.", show_choices=True)]
