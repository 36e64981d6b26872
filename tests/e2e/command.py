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


def surroundings(source: Path = ROOT, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's environment, with the checkout ``source`` importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(source), "PYTHONUNBUFFERED": "1", **(extra or {})}


def command_line(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cloudtune", *map(str, arguments)]


def cloudtune(
    *arguments: str | Path, folder: Path, source: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 300, stdin: str = ""
) -> Ran:
    """Run ``cloudtune ARGUMENTS`` in ``folder`` and wait for it."""
    ran = subprocess.run(
        command_line(*arguments),
        cwd=folder,
        env=surroundings(source, env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@dataclass(frozen=True)
class Installation:
    """A copy of cloudtune with a stand-in trainer, and a work folder with ``plan.json``."""

    source: Path
    work: Path

    def run(self, *arguments: str | Path, timeout: float = 60, env: Mapping[str, str] | None = None, stdin: str = "") -> Ran:
        return cloudtune(*arguments, folder=self.work, source=self.source, timeout=timeout, env=env, stdin=stdin)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command and return at once; stdout and stderr are pipes."""
        return subprocess.Popen(
            command_line(*arguments),
            cwd=self.work,
            env=surroundings(self.source),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
