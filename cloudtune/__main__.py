"""``python -m cloudtune``: the same as the command ``cloudtune``."""

from __future__ import annotations

from cloudtune.cli.main import run

if __name__ == "__main__":
    run()
