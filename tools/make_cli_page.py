"""Rewrites the help texts inside docs/cli.md from the command itself. A test fails when the page lags behind.

    .venv/bin/python tools/make_cli_page.py

Each command has a section headed by its name; the first fenced block after the marker comment is replaced.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
_BLOCK = re.compile(r"(<!-- help: ?(?P<command>[a-z]*) -->\n```text\n).*?(```)", re.DOTALL)


def help_text(command: str) -> str:
    """What ``cloudtune COMMAND --help`` prints on an 80-column terminal."""
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    arguments = [*([command] if command else []), "--help"]
    ran = subprocess.run([sys.executable, "-m", "cloudtune", *arguments], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip() + "\n"


def commands_on(page: str) -> list[str]:
    """The commands whose help the page shows, in its order; the empty name is ``cloudtune --help`` itself."""
    return [match["command"] for match in _BLOCK.finditer(page)]


def renewed(page: str) -> str:
    """The page with every help block made new."""
    return _BLOCK.sub(lambda match: f"{match[1]}{help_text(match['command'])}{match[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
