"""What this Python loads before any line of ours, so that tests of start-up judge only what we load.

Installed packages may add to it: a ``*-nspkg.pth`` file (googleapis' namespace) puts ``google`` into every process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache


@cache
def bare_modules() -> frozenset[str]:
    """The modules of an interpreter that runs nothing."""
    code = "import sys; print(*sorted(sys.modules))"
    return frozenset(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def loaded_roots(modules: Iterable[str]) -> set[str]:
    """The top-level packages of ``modules`` that a bare interpreter would not have."""
    return {name.partition(".")[0] for name in modules if name not in bare_modules()}
