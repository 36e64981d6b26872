"""Runs the command as a person does: its own process, its own folder. Not a test itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer


def surroundings(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's environment, with this checkout importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}


def cloudtune(*arguments: str | Path, folder: Path, env: Mapping[str, str] | None = None, timeout: float = 300, stdin: str = "") -> Ran:
    """Run ``cloudtune ARGUMENTS`` in ``folder`` and wait for it."""
    ran = subprocess.run(
        [sys.executable, "-m", "cloudtune", *map(str, arguments)],
        cwd=folder,
        env=surroundings(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)
