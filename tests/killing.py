"""Kills a launcher at the n-th line of the code that matters, which is what a crash at any instant means. Not a test itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any


class LineCounter:
    """A trace function (``sys.settrace``): counts lines in files whose path has one of ``critical``, and SIGKILLs at ``limit``."""

    def __init__(self, critical: Sequence[str], limit: int | None = None) -> None:
        self.critical = tuple(critical)
        self.lines = 0
        self.limit = limit

    def __call__(self, frame: Any, _event: str, _argument: Any) -> Any:
        return self.line if any(part in frame.f_code.co_filename for part in self.critical) else None

    def line(self, _frame: Any, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.limit:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line
