"""Which tests share a worker of ``make test`` (pytest-xdist): those of one file, as they share what is slow to make, and all
that use the container engine, as there is one.

Groups are told by files: xdist's own groups (``--dist loadgroup``) are marks that it writes into test ids, which pytest 9.2 no
longer reads (xdist 3.8.0, seen on 2026-11-26).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
ENGINE = "engine"


class FilesAndEngine(LoadScopeScheduling):
    """xdist's scheduler of whole groups, with our groups."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


@cache
def group_of(file: str) -> str:
    """The group of a test file, by its path from the root."""
    return ENGINE if "pytest.mark.engine" in (ROOT / file).read_text(encoding="utf-8") else file
