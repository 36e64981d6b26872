"""Finds the files that travel with cloudtune outside its package: ``containers/`` and ``recipes/``. Reads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cloudtune.errors import StagingError

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: Literal["containers", "recipes"]) -> Path:
    """The folder ``name``: beside the package in a checkout, inside it (``_bundled``) in an installed wheel.

    The checkout wins, so that an editable install always sees the files being edited. A folder of the same
    name that merely lies beside an installed package is not ours: a checkout is known by its pyproject.toml.
    """
    checkout = _PACKAGE.parent
    places = [_PACKAGE / "_bundled" / name]
    if (checkout / "pyproject.toml").is_file():
        places.insert(0, checkout / name)
    for place in places:
        if place.is_dir():
            return place
    raise StagingError(
        f"cloudtune's own folder {name}/ is missing from this installation",
        where=str(places[-1]),
        hint="install cloudtune again: pip install --force-reinstall cloudtune",
    )
