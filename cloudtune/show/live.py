"""Following a job: a live picture on a terminal, one plain line per change on a pipe. Asks nobody, decides nothing.

Both followers take the same views, one after the other: ``with follower(...) as show: show(view)``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from cloudtune.show.jobs import STATE_STYLES
from cloudtune.show.text import Page, meter, page_for, plain, sparkline
from cloudtune.units import duration

if TYPE_CHECKING:
    from rich.live import Live

    from cloudtune.job import JobView, Progress

Show = Callable[["JobView"], None]

_BAR = 40
_CURVE = 40
_WITHOUT_STEPS = ("load", "tokenize")  # phases whose step and loss, if any, are those of the phase before
_LINE_EVERY = 0.1  # a piped line for each tenth of the steps, besides every change of state and phase


def follower(stream: TextIO, now: Callable[[], datetime]) -> AbstractContextManager[Show]:
    """The right follower for ``stream``; ``now`` tells UTC wall time for the elapsed seconds."""
    page = page_for(stream)
    return LivePicture(stream, page, now) if page.width else PlainLines(stream)


class PlainLines:
    """Writes a line when state or phase change, and for every tenth of the steps. No colours, nothing is overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[str, str, int] | None = None

    def __enter__(self) -> Show:
        return self._show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.flush()

    def _show(self, view: JobView) -> None:
        mark = (str(view.state), view.progress.phase if view.progress else "", _tenth(view.progress))
        if mark != self._last:
            self._last = mark
            self._stream.write(plain_line(view) + "\n")
            self._stream.flush()


def _tenth(progress: Progress | None) -> int:
    if progress is None or progress.step is None or not progress.total_steps:
        return -1
    return int(progress.step / progress.total_steps / _LINE_EVERY)


def plain_line(view: JobView) -> str:
    """One line that says where the job is: ``quickstart-ab12 running: train, step 12/120, loss 2.31, 40 s left``."""
    parts = [part for part in (_phase(view.progress), *_numbers(view.progress)) if part]
    return plain(f"{view.id} {view.state}{': ' if parts else ''}{', '.join(parts)}")


def _phase(progress: Progress | None) -> str:
    if progress is None:
        return ""
    if progress.step is not None and progress.total_steps and progress.phase not in _WITHOUT_STEPS:
        return f"{progress.phase}, step {progress.step}/{progress.total_steps}"
    return progress.phase


def _numbers(progress: Progress | None) -> list[str]:
    if progress is None or progress.phase in _WITHOUT_STEPS:
        return []
    return [
        f"loss {progress.loss:.3f}" if progress.loss is not None else "",
        f"eval loss {progress.eval_loss:.3f}" if progress.eval_loss is not None else "",
        f"{progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else "",
        f"{duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else "",
    ]


class LivePicture:
    """A few lines that are redrawn in place: state, step bar, loss curve, speed, elapsed time and what is left."""

    def __init__(self, stream: TextIO, page: Page, now: Callable[[], datetime]) -> None:
        self._stream = stream
        self._page = page
        self._now = now
        self._live: Live | None = None

    def __enter__(self) -> Show:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream, highlight=False, no_color=not self._page.colour)
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._live.__enter__()
        return self._show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def _show(self, view: JobView) -> None:
        from rich.text import Text

        if self._live is not None:
            picture = "\n".join(picture_lines(view, self._page, self._now()))
            self._live.update(Text.from_ansi(picture, no_wrap=True, overflow="ellipsis"))


def picture_lines(view: JobView, page: Page, now: datetime) -> list[str]:
    """The picture of one view as lines that fit the page."""
    progress = view.progress
    elapsed = f"{duration(max(0.0, (now - view.created).total_seconds()))} so far" if view.created else ""
    left = f"about {duration(progress.eta_seconds)} left" if progress and progress.eta_seconds is not None else ""
    state = page.paint(str(view.state), STATE_STYLES.get(view.state))
    lines = [f"{page.paint(view.id, 'bold')}  {state}  {page.paint(', '.join(part for part in (elapsed, left) if part), 'dim')}"]
    if progress is None:
        return [*lines, *([f"  {plain(view.message.partition(chr(10))[0])}"] if view.message else [])]
    room = max(10, min(_BAR, page.width - 36))
    lines.append(_step_line(progress, page, room))
    if progress.phase in _WITHOUT_STEPS:
        return lines
    if progress.loss is not None:
        curve = sparkline(progress.losses, min(_CURVE, room), unicode=page.unicode)
        evaluated = f"  eval {progress.eval_loss:.3f}" if progress.eval_loss is not None else ""
        lines.append(f"  {'loss':<9}{page.paint(curve, 'cyan')}{' ' * (room - len(curve))}  {progress.loss:.3f}{evaluated}")
    if progress.tokens_per_second:
        lines.append(f"  {'speed':<9}{progress.tokens_per_second:,.0f} tokens/s")
    return lines


def _step_line(progress: Progress, page: Page, room: int) -> str:
    phase = f"  {plain(progress.phase)[:8]:<9}"
    if progress.step is None or not progress.total_steps or progress.phase in _WITHOUT_STEPS:
        return phase.rstrip()
    fraction = progress.step / progress.total_steps
    bar = meter(page, fraction, room)
    rest = page.paint(("─" if page.unicode else ".") * (room - len(bar)), "dim")
    return f"{phase}{page.paint(bar, 'green')}{rest}  step {progress.step}/{progress.total_steps}, {fraction:.0%}"
