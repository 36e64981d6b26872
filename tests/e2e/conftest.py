"""An installation of cloudtune whose trainer is the stand-in: the command's own code, a job that takes milliseconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import builders
from tests.e2e.command import ROOT, Installation

_MAIN = """
import json, runpy, sys
from pathlib import Path
here = Path(__file__).parent
sys.argv = ["standin", *json.loads((here / "options.json").read_text())]
runpy.run_path(str(here / "standin.py"), run_name="__main__")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[Sequence[str]], Installation]:
    """A function: options of the stand-in trainer → an installation with a plan ready to launch."""

    def make(options: Sequence[str] = ()) -> Installation:
        folder = tmp_path / "installation"
        shutil.copytree(ROOT / "cloudtune", folder / "cloudtune", ignore=shutil.ignore_patterns("__pycache__", "_bundled"))
        shutil.copytree(ROOT / "containers" / "requirements", folder / "containers" / "requirements")
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        (folder / "pyproject.toml").write_text("# marks this folder as a checkout\n")
        trainer = folder / "containers" / "trainer" / "cloudtune_trainer"
        trainer.mkdir(parents=True)
        (trainer / "__init__.py").write_text("")
        (trainer / "__main__.py").write_text(_MAIN)
        (trainer / "options.json").write_text(json.dumps(list(options)))
        shutil.copy(builders.STANDIN, trainer / "standin.py")
        work = tmp_path / "work"
        plan = builders.plan(work)
        (work / "plan.json").write_text(plan.model_dump_json())
        return Installation(folder, work)

    return make
