"""``output/failure``: one sentence first, details after. Turns what went wrong into words; repairs nothing."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cloudtune.errors import CloudtuneError
from cloudtune_trainer.report import say


class Failure:
    """Context that writes the failure file when an error leaves it, says the sentence, and lets nothing further out.

    SystemExit and KeyboardInterrupt pass through. A file that is there already stays: the first failure is the cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Failure:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        told = sentence(error)
        say(f"failed: {told}")
        if isinstance(error, CloudtuneError) and error.hint:
            say(f"  → {error.hint}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        details = "".join(traceback.format_exception(error))
        hint = f"{error.hint}\n" if isinstance(error, CloudtuneError) and error.hint else ""
        with suppress(FileExistsError), self.path.open("x", encoding="utf-8") as file:  # of several workers the first one knows why
            file.write(f"{told}\n{hint}\n{details}")
        return True


def sentence(error: Exception) -> str:
    """What happened, on one line."""
    if isinstance(error, CloudtuneError):
        return f"{error.where}: {error.what}" if error.where else error.what
    first = str(error).strip().split("\n")[0][:300]
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: lower micro_batch_size or max_length, or turn on gradient_checkpointing"
    if isinstance(error, MemoryError) or "not enough memory" in first or "can't allocate memory" in first:
        return "the machine's memory is full: lower micro_batch_size or max_length, or take a smaller model"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {first}"
