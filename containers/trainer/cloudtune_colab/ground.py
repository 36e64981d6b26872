"""Where a notebook stands: its folders, whether this is Colab, and how a cell ends when something is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "CLOUDTUNE_NOTEBOOK_HOME"
COLAB_HOME = Path("/content/cloudtune")


class Stop(Exception):
    """Ends a cell with one sentence and no traceback; a notebook that runs headless fails with it."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of a traceback."""
        return [f"cloudtune: {self}"]


@dataclass(frozen=True)
class Place:
    """``home`` holds everything that a notebook makes on this machine: ``code``, ``packages``, ``job`` and caches."""

    home: Path
    colab: bool

    @property
    def code(self) -> Path:
        return self.home / "code"

    @property
    def packages(self) -> Path:
        return self.home / "packages"

    @property
    def python_path(self) -> str:
        """What a process of ours needs to find the trainer first and the locked packages before the machine's own."""
        return os.pathsep.join([str(self.code), str(self.packages)])


def find_place(environ: Mapping[str, str]) -> Place:
    """/content/cloudtune on Colab, ./cloudtune-notebook elsewhere; CLOUDTUNE_NOTEBOOK_HOME moves it."""
    colab = in_colab()
    asked = environ.get(HOME_VARIABLE)
    return Place(Path(asked) if asked else (COLAB_HOME if colab else Path.cwd() / "cloudtune-notebook"), colab)


def in_colab() -> bool:
    """Whether Google's own notebook library is here."""
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:  # there is no package google at all
        return False


def sign_in(place: Place) -> None:
    """A login for buckets: whatever Google's library finds by itself, else Colab asks the person at the notebook."""
    if not place.colab:
        return
    auth = importlib.import_module("google.auth")
    try:
        auth.default()
    except importlib.import_module("google.auth.exceptions").DefaultCredentialsError:
        importlib.import_module("google.colab.auth").authenticate_user()


def say(text: str) -> None:
    """One line below the cell."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
